"""Which weights of a protein language model carry its knowledge of a category of proteins?

The names of the main job are here: `import plmsub` and tab completion are enough for it. Everything else is one
import away, in `plmsub.tasks`, `plmsub.io`, `plmsub.models`, `plmsub.paper` and `plmsub.app`.
"""

import lazy_loader

# The list of names, for people, editors and type checkers alike, is __init__.pyi; each module is loaded when it is used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.2.0"
