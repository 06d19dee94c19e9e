"""What the views show, as plain values: pure functions of engine values, without torch and Panel."""
