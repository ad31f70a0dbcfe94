"""The registry every agent file declares into."""

from app.engine.declare import Registry

registry = Registry()
