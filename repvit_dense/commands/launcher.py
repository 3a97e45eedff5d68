"""Check how the processes of a run were started."""

import os

from repvit_dense import screen
from repvit_dense.errors import InputError

# Launcher -> the variables that it sets in every process: rank, number of processes, and others.
VARIABLES = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
}
COMMANDS = {
    'pytorch': 'torchrun --nproc_per_node=N',
    'slurm': 'srun',
    'mpi': 'mpirun',
}


def check_launcher(launcher: str, local_rank: int) -> None:
    """Refuse a launcher that did not start this process, and a process of torchrun without a launcher.

    Without it, every process would train by itself into the same work dir.

    Raises:
        InputError: names the variable that is missing or wrong.
    """
    if launcher == 'none':
        if local_rank:
            raise InputError(f'--local-rank {local_rank}: goes with --launcher; leave it out or add the launcher')
        size = os.environ.get('WORLD_SIZE', '1')
        if size.isdigit() and int(size) > 1 and 'RANK' in os.environ:
            raise InputError(
                f'this is one of {size} processes (WORLD_SIZE), which would all train by themselves; '
                'add --launcher pytorch, or unset WORLD_SIZE'
            )
        return
    missing = [name for name in VARIABLES[launcher] if not os.environ.get(name)]
    if launcher == 'pytorch' and missing == ['LOCAL_RANK']:  # torch.distributed.launch passes --local-rank
        missing = []
    if missing:
        raise InputError(
            f'--launcher {launcher}: {", ".join(missing)} is not set, so this process was not started by '
            f'{COMMANDS[launcher]}; start it so, or leave --launcher out for one process'
        )
    rank_name, size_name = VARIABLES[launcher][:2]
    rank, number = _number(rank_name), _number(size_name)
    if rank >= number:
        raise InputError(f'--launcher {launcher}: {rank_name}={rank} is not below {size_name}={number}')
    for name in VARIABLES[launcher]:
        if name.endswith(('LOCAL_RANK', 'PORT')):
            _number(name)
    if rank:
        screen.mute()  # the first process speaks for all


def processes(launcher: str) -> int:
    """Return the number of processes of a run."""
    return max(1, _number(VARIABLES[launcher][1])) if launcher in VARIABLES else 1


def is_restarted() -> bool:
    """Return whether torchrun started this job again after it died."""
    restarts = os.environ.get('TORCHELASTIC_RESTART_COUNT', '')
    return restarts.isdecimal() and restarts.strip('0') != ''


def _number(name: str) -> int:
    text = os.environ.get(name, '0')
    if not (text.isascii() and text.isdigit() and len(text) < 8):
        raise InputError(f"--launcher: {name}='{text}' in the environment is not a whole number")
    return int(text)
