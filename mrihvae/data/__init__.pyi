from .calibration import Calibration as Calibration
from .geometry import Geometry as Geometry
from .scan import Scan as Scan
from .scan import acquired_samples as acquired_samples
from .scan import delivered_shape as delivered_shape
from .scan import is_complete as is_complete
from .volume import ImageVolume as ImageVolume
