import pytest

pytestmark = pytest.mark.deploy
pytest.importorskip('executorch')


@pytest.mark.parametrize('kind', ['semantic', 'detection'])
@pytest.mark.parametrize('number', [1, 2])
def test_its_own_runtime_gives_what_torch_gives(graph, write, batch, close, kind, number):
    from executorch.runtime import Runtime

    model, inputs = graph(kind, plain=True), batch(number)
    program = Runtime.get().load_program(write(model, 'executorch', batch=number))
    try:
        found = program.load_method('forward').execute(inputs)
    except RuntimeError as error:
        if 'does not have a device' in str(error):
            pytest.skip('this executorch was built for another torch and cannot take its tensors')
        raise
    close(model, inputs, found)


def test_convolutions_go_to_xnnpack(graph, write):
    content = write(graph('semantic', plain=True), 'executorch').read_bytes()
    assert b'XnnpackBackend' in content
    assert b'aten::convolution' not in content
