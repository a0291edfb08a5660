"""Answers: decision rules, from leaf logits to a node of the hierarchy, their calibration, and a network that answers by them."""

from hiercnn.inference._answers import Answers, describe_answers
from hiercnn.inference._argmax import Argmax
from hiercnn.inference._auto import Auto
from hiercnn.inference._calibrate import Calibration, calibrate
from hiercnn.inference._climbing import Climbing
from hiercnn.inference._crm import CRM
from hiercnn.inference._early import ExitCalibration, calibrate_exit
from hiercnn.inference._exported import FILES, LEAF, MANIFEST, DecisionRule, Images, Manifest, is_exported, load_exported
from hiercnn.inference._hie import HiE, hie_options
from hiercnn.inference._marginals import Marginals
from hiercnn.inference._predictor import BOMB, Prediction, Predictor
from hiercnn.inference._pretrained import pretrained_predictor
from hiercnn.inference._pt2 import plain_archive
from hiercnn.inference._registry import rules
from hiercnn.inference._rule import Decision, Rule
from hiercnn.inference._temperature import Temperature, fit_temperature
from hiercnn.inference._threshold import Threshold
from hiercnn.inference._top_down import TopDown

__all__ = [
    "BOMB",
    "FILES",
    "LEAF",
    "MANIFEST",
    "Answers",
    "Argmax",
    "Auto",
    "CRM",
    "Calibration",
    "Climbing",
    "Decision",
    "DecisionRule",
    "ExitCalibration",
    "HiE",
    "Images",
    "Manifest",
    "Marginals",
    "Prediction",
    "Predictor",
    "Rule",
    "Temperature",
    "Threshold",
    "TopDown",
    "calibrate",
    "calibrate_exit",
    "describe_answers",
    "fit_temperature",
    "hie_options",
    "is_exported",
    "load_exported",
    "plain_archive",
    "pretrained_predictor",
    "rules",
]
