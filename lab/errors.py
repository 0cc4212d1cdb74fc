"""What the lab says when it cannot do what it was asked."""


class LabError(Exception):
    """One line for the person at the keyboard; `status` is the exit status of the command."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status
