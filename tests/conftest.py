import torch
from hypothesis import settings

from deepal import callbacks

settings.register_profile("steady", deadline=None, max_examples=50)
settings.load_profile("steady")
torch.set_num_threads(1)
callbacks.SECONDS_APART = 0  # tests kill fits that are shorter than what is between two saved states
