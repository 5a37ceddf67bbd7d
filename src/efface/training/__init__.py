"""Fit a base model; read features out of it."""

from efface.devices import Precision, resolve_device
from efface.training.erm import Erm, Trained
from efface.training.none import NoTraining
from efface.training.reading import read_out

__all__ = ["Erm", "NoTraining", "Precision", "Trained", "read_out", "resolve_device"]
