from .client import Address as Address
from .client import exchange_messages as exchange_messages
from .listener import ServerSettings as ServerSettings
from .request import Request as Request
from .session import Engine as Engine
from .session import load_engine as load_engine
from .session import reconstruct_stream as reconstruct_stream
from .tcp import Server as Server
