from .config import base_config
from .data.statistics import Statistics
from .errors import InputError
from .experiment import make_mesh, make_program, make_schedule
from .inputs import evaluation_input, open_images, training_input
from .network.alexnet import AlexNet
from .network.shapes import stages

__version__: str
