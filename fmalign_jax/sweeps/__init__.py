"""Many runs of one config at once: members, their data, steps and files."""
