"""The detectors a command can name. A factory takes the evidence, then keyword options, and returns findings, worst first."""

from hiercnn.registry import Registry

detectors = Registry("detector")
