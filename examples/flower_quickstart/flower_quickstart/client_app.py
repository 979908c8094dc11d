"""The app of a node."""

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl.integrations.flower import secagg_mod
from flower_quickstart import task

torch.set_num_threads(1)

app = ClientApp(mods=[secagg_mod()])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the received model on the node's own examples."""
    dataset = task.load(context.run_config)
    model = task.make_model(dataset)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    loss, examples = task.train(
        model,
        dataset,
        int(context.node_config["partition-id"]),
        int(context.node_config["num-partitions"]),
        epochs=int(context.run_config["local-epochs"]),
        lr=float(message.content["config"]["lr"]),
    )
    metrics = MetricRecord({"train_loss": loss, "num-examples": examples})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the received model."""
    dataset = task.load(context.run_config)
    model = task.make_model(dataset)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    loss, accuracy, examples = task.test(
        model, dataset, int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])
    )
    metrics = MetricRecord({"eval_loss": loss, "eval_acc": accuracy, "num-examples": examples})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
