# "as", since jedi takes other names of a stub for private, whatever __all__ says
from sb3_forward.a2c import ForwardA2C as ForwardA2C
from sb3_forward.callbacks import LocalLearningCallback as LocalLearningCallback
from sb3_forward.policies import ForwardCnnPolicy as ForwardCnnPolicy
from sb3_forward.policies import ForwardMultiInputPolicy as ForwardMultiInputPolicy
from sb3_forward.policies import ForwardPolicy as ForwardPolicy
from sb3_forward.ppo import ForwardPPO as ForwardPPO

__all__ = [
    "ForwardA2C",
    "ForwardCnnPolicy",
    "ForwardMultiInputPolicy",
    "ForwardPPO",
    "ForwardPolicy",
    "LocalLearningCallback",
    "__version__",
]

__version__: str
