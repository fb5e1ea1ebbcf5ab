"""Tars of layers: hostile ones read strictly and in bounded memory, our own written in one form."""
