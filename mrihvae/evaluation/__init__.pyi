from .figures import image_grid as image_grid
from .figures import save_figure as save_figure
from .figures import training_figure as training_figure
from .figures import volume_panel as volume_panel
from .scores import Evaluation as Evaluation
from .scores import VolumeScores as VolumeScores
from .scores import evaluate as evaluate
from .scores import score_volume as score_volume
