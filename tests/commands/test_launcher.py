"""A launcher and its variables."""

import pytest

from repvit_dense import screen
from repvit_dense.commands.launcher import check_launcher
from repvit_dense.errors import InputError

TORCHRUN = {'RANK': '0', 'WORLD_SIZE': '2', 'LOCAL_RANK': '0', 'MASTER_ADDR': 'localhost', 'MASTER_PORT': '29500'}
MPI = {f'OMPI_COMM_WORLD_{name}': value for name, value in (('RANK', '1'), ('SIZE', '2'), ('LOCAL_RANK', '1'))}


@pytest.fixture
def check(monkeypatch):
    monkeypatch.setattr(screen, '_muted', False)

    def call(launcher, variables, local_rank=0):
        for name in (*TORCHRUN, *MPI, 'SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        check_launcher(launcher, local_rank)

    return call


@pytest.mark.parametrize(
    'launcher, variables',
    [('none', {}), ('none', {'WORLD_SIZE': '1', 'RANK': '0'}), ('pytorch', TORCHRUN), ('mpi', MPI)],
)
def test_a_process_that_its_launcher_started(check, launcher, variables, capsys):
    check(launcher, variables)
    screen.say('the first process speaks')
    assert bool(capsys.readouterr().err) == (variables is not MPI)


@pytest.mark.parametrize(
    'launcher, variables, local_rank, words',
    [
        ('pytorch', {}, 0, 'RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not set'),
        ('slurm', {}, 0, 'SLURM_PROCID, SLURM_NTASKS, SLURM_NODELIST is not set'),
        ('mpi', {}, 0, 'was not started by mpirun'),
        ('pytorch', {**TORCHRUN, 'RANK': '2'}, 0, 'RANK=2 is not below WORLD_SIZE=2'),
        ('pytorch', {**TORCHRUN, 'WORLD_SIZE': 'two'}, 0, "WORLD_SIZE='two' in the environment is not a whole number"),
        ('pytorch', {**TORCHRUN, 'MASTER_PORT': '-1'}, 0, "MASTER_PORT='-1'"),
        ('none', TORCHRUN, 0, 'one of 2 processes .* add --launcher pytorch'),
        ('none', {}, 3, '--local-rank 3: goes with --launcher'),
    ],
)
def test_a_process_that_it_did_not_start(check, launcher, variables, local_rank, words):
    with pytest.raises(InputError, match=words):
        check(launcher, variables, local_rank)
