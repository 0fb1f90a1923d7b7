from .request import Request as Request
from .session import Engine as Engine
from .session import make_ready as make_ready
from .session import reconstruct_stream as reconstruct_stream
from .tcp import Server as Server
from .tcp import ServerSettings as ServerSettings
