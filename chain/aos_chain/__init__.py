"""AOS on an EVM chain: the registry of operators, the selection rule, anchors of dispatchers' logs, and challenges with bonds."""
