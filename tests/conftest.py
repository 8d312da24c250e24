"""What tests take for granted whoever runs them: one torch thread, no clock in hypothesis, signals that are heard."""

import signal

import torch
from hypothesis import settings

# Small batched matrices are many times slower with two.
torch.set_num_threads(1)

# pytest-timeout catches what hangs.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

# A job in the background of a script is started deaf to Ctrl-C, one under nohup to SIGHUP, and so would everything be
# that tests start.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)
