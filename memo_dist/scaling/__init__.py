"""The scaling study: how large must a memory be for how much knowledge."""
