"""Classes for stacks that have no setting for it: one file per stack, imported only by who uses that stack."""
