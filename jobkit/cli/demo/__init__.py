"""`selfheal demo`: an outage and its healing, told live. Everything that it shows happens: the three components run
in this process on their embedded parts, and every figure is their API's answer."""
