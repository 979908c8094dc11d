"""Flower's own PyTorch quickstart, as `flwr new` of its last release with templates writes it, plus two lines.

The files come out of Flower's wheel when the test runs. Only loading CIFAR-10 from the internet is replaced, by
scikit-learn's digits in the same shape; training, evaluation and strategy are Flower's, unchanged.
"""

import re
import string
import subprocess
import sys
import zipfile
from pathlib import Path

RELEASE = "1.24.0"
"""The last release of flwr whose wheel holds templates."""

_TEMPLATES = "flwr/cli/new/templates/app"
_NAMES = {
    "project_name": "quickstart", "package_name": "quickstart", "import_name": "quickstart", "framework_str": "PyTorch",
    "username": "test",
}  # fmt: skip

_LOADER = '''
def load_data(partition_id: int, num_partitions: int):
    """Digits, made as large and colorful as CIFAR-10."""
    from fl.data import load_dataset
    dataset = load_dataset("digits")
    images = F.interpolate(dataset.train_images, scale_factor=4).expand(-1, 3, -1, -1)[partition_id::num_partitions]
    labels = dataset.train_labels[partition_id::num_partitions]
    rows = [{"img": image, "label": label} for image, label in zip(images, labels, strict=True)]
    cut = len(rows) * 4 // 5
    return DataLoader(rows[:cut], batch_size=32, shuffle=True), DataLoader(rows[cut:], batch_size=32)


'''

TWO_LINES = {
    "client_app.py": ("app = ClientApp()", "app = ClientApp(mods=[secagg_mod()])", "secagg_mod"),
    "server_app.py": ("        grid=grid,", "        grid=SecAggGrid(grid),", "SecAggGrid"),
}
"""The replaced lines by file, and the imports for them."""


def download(folder: Path) -> Path | None:
    """Return the wheel, or None if it cannot be downloaded."""
    done = subprocess.run(  # noqa: S603 - pip
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), f"flwr=={RELEASE}"],
        capture_output=True,
        check=False,
    )
    return next(folder.glob("flwr-*.whl"), None) if done.returncode == 0 else None


def write_app(wheel: Path, folder: Path, *, secure: bool) -> Path:
    """Write the app in a folder: Flower's, with local data; with ``secure``, plus the two lines and their imports."""
    files = {
        "pyproject.toml": "pyproject.pytorch.toml.tpl",
        "quickstart/__init__.py": "code/__init__.py.tpl",
        "quickstart/client_app.py": "code/client.pytorch.py.tpl",
        "quickstart/server_app.py": "code/server.pytorch.py.tpl",
        "quickstart/task.py": "code/task.pytorch.py.tpl",
    }
    (folder / "quickstart").mkdir(parents=True)
    with zipfile.ZipFile(wheel) as archive:
        for name, template in files.items():
            text = string.Template(archive.read(f"{_TEMPLATES}/{template}").decode()).substitute(_NAMES)
            (folder / name).write_text(text, encoding="utf-8")
    _exchange_loader(folder / "quickstart" / "task.py")
    if secure:
        for name, (before, after, imported) in TWO_LINES.items():
            path = folder / "quickstart" / name
            text = path.read_text(encoding="utf-8")
            assert text.count(before) == 1, f"{name} of flwr {RELEASE} is unknown to this test"
            imports = f"\nfrom fl.integrations.flower import {imported}\nfrom quickstart.task import"
            text = text.replace(before, after).replace("\nfrom quickstart.task import", imports, 1)
            path.write_text(text, encoding="utf-8")
    return folder


def _exchange_loader(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    start, end = text.index("fds = None"), text.index("def train(net")
    text = text[:start] + _LOADER.lstrip() + text[end:]
    gone = ("flwr_datasets", "torchvision")
    lines = [line for line in text.splitlines() if not re.match(f"from ({'|'.join(gone)})", line)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
