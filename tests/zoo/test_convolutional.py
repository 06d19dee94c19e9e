"""Convolutional networks: every kind of plan, on every target, equals eager PyTorch."""
from models import register
from oracle import covering
from targets.test_target_contract import TargetContract
from zoo.convolutional import MODELS

register(MODELS)

class TestTorch(TargetContract):
    target = "torch"
    cases = covering(MODELS)

class TestOpenVINO(TargetContract):
    target = "openvino"
    cases = covering(MODELS)
