"""Getting the chosen connections to Tulle, and only those: everything that touches the kernel.

``errors`` and ``types`` first; ``netns``, ``sockets`` and ``plumbing`` work inside one pod; ``loader`` compiles
and pins; ``steer.Kernel`` is the agent's handle on what is pinned; ``denials`` reads what the kernel refused;
``features`` probes.
"""
