"""Take a protected attribute out of a machine-learning model, and show that it is gone.

The public names are listed in `__init__.pyi` and imported when they are first used: `import efface` loads no torch.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
