"""The losses a recipe can name. A factory takes the hierarchy, then keyword options, and returns a module."""

from hiercnn.registry import Registry

losses = Registry("loss")
