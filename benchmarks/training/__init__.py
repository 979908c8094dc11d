"""Images a second of a round's training by each engine, beside one model that is trained on the same images."""
