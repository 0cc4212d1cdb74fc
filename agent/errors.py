"""What goes wrong in the agent itself; the rooms below have families of their own."""


class AgentError(Exception):
    """The agent cannot do what was asked; the message is one line for an operator."""


class ConfigError(AgentError):
    """The configuration file is missing, unreadable or wrong."""
