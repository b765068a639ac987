"""Profile, plan, stages, lake and command line of the kit. Imports neither pulumi nor torch."""

__version__ = "0.1.0"
