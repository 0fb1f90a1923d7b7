from .files import read_twix as read_twix
