"""Training of the demo's model (`demo.train`) and of its judge (`demo.train_judge`)."""


class TrainingError(Exception):
    """The training cannot start or continue; the message is one sentence for the user."""
