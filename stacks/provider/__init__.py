"""The Pulumi provider plugin `pulumi-resource-sovereign`: resources Manifest and Node. It starts in main.py."""
