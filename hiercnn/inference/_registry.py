"""The decision rules a recipe or a command can name. A factory takes the hierarchy, then keyword options, and returns a module."""

from hiercnn.registry import Registry

rules = Registry("decision rule")
