"""Infrastructure: the embedded node, the Pulumi provider plugin, components, the three stacks and their deployment."""
