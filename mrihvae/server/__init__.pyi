from .client import Address as Address
from .client import exchange_messages as exchange_messages
from .engine import Engine as Engine
from .engine import load_engine as load_engine
from .listener import ServerSettings as ServerSettings
from .request import Request as Request
from .session import reconstruct_stream as reconstruct_stream
from .tcp import Server as Server
