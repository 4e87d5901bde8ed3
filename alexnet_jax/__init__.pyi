from .config import base_config as base_config
from .config_file import load_config as load_config
from .data.statistics import Statistics as Statistics
from .errors import InputError as InputError
from .experiment import make_mesh as make_mesh
from .experiment import make_network as make_network
from .experiment import make_program as make_program
from .experiment import make_schedule as make_schedule
from .inputs import evaluation_input as evaluation_input
from .inputs import open_images as open_images
from .inputs import training_input as training_input
from .network.alexnet import AlexNet as AlexNet
from .network.shapes import stages as stages
from .predict import load_run as load_run

__version__: str
