"""KSTAR FaceLab: train a face embedding, measure it, find look-alikes, draw a FaceMap."""

__version__ = "0.1.0"
