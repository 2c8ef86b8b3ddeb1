"""Costs of programs: FLOPs against XLA's and arithmetic, traffic by hand."""

import functools

import compilers
import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.experimental import pallas as pl

from nasjax.programs import costs as program_costs


def _shape(*dims):
  return jax.ShapeDtypeStruct(dims, jnp.float32)


def _by_xla(function, *shapes):
  return jax.jit(function).lower(*shapes).cost_analysis()['flops']


def _conv(x, w, **how):
  return lax.conv_general_dilated(
    x, w, dimension_numbers=('NTC', 'TIO', 'NTC'), **how
  )


PRODUCTS = {
  'matrices': (jnp.dot, (5, 7), (7, 3)),
  'batches': (functools.partial(jnp.einsum, 'bij,bkj->bik'), *[(4, 5, 6)] * 2),
  'a convolution': (
    functools.partial(_conv, window_strides=(1,), padding='VALID'),
    *((2, 20, 6), (5, 6, 8)),
  ),
  'padding': (
    functools.partial(_conv, window_strides=(2,), padding=[(3, 1)]),
    *((2, 20, 6), (5, 6, 8)),
  ),
  'cut off': (
    functools.partial(_conv, window_strides=(1,), padding=[(-2, -1)]),
    *((2, 20, 6), (5, 6, 8)),
  ),
  'dilated taps': (
    functools.partial(
      _conv, window_strides=(1,), padding='SAME', rhs_dilation=(2,)
    ),
    *((2, 20, 6), (5, 6, 8)),
  ),
  'dilated input': (
    functools.partial(
      _conv, window_strides=(1,), padding=[(4, 4)], lhs_dilation=(3,)
    ),
    *((2, 20, 6), (5, 6, 8)),
  ),
  'groups': (
    functools.partial(
      _conv, window_strides=(1,), padding='SAME', feature_group_count=3
    ),
    *((2, 20, 6), (5, 2, 9)),
  ),
  'groups of the batch': (
    functools.partial(
      _conv, window_strides=(1,), padding='SAME', batch_group_count=2
    ),
    *((4, 20, 6), (5, 6, 8)),
  ),
  'images': (
    lambda x, w: lax.conv(x, w, (1, 2), 'SAME'),
    *((2, 3, 9, 11), (4, 3, 3, 5)),
  ),
}


@pytest.mark.parametrize('name', PRODUCTS)
def test_products_as_xla_counts_them(name):
  function, *dims = PRODUCTS[name]
  shapes = [_shape(*d) for d in dims]
  found = program_costs.flops(function, *shapes)
  assert found == _by_xla(function, *shapes) > 0


def test_gradients_as_xla_counts_them():
  """And not what is computed for nobody: here the convolution itself."""

  def pull(x, w, dy):
    conv = functools.partial(_conv, window_strides=(2,), padding=[(3, 4)])
    return jax.vjp(conv, x, w)[1](dy)

  shapes = _shape(2, 20, 6), _shape(8, 6, 8), _shape(2, 10, 8)
  assert program_costs.flops(pull, *shapes) == _by_xla(pull, *shapes) > 0


PRODUCT = 2 * 4 * 4 * 4


def _twice(x):
  return lax.scan(lambda c, _: (c @ c, None), x, None, length=2)[0]


def _traced(x, n):
  return lax.fori_loop(0, n, lambda i, c: c @ c, x)


def _branches(x, n):
  return lax.switch(n, [lambda x: x, lambda x: x @ x @ x, lambda x: x @ x], x)


@jax.custom_vjp
def _ruled(x):
  return x @ x


_ruled.defvjp(lambda x: (x @ x, x), lambda x, dy: (dy @ x @ x,))


@pytest.mark.parametrize(
  'function, more, products',
  [
    (_twice, (), 2),
    (lambda x: lax.scan(lambda c, _: (_twice(c), None), x, None, 5)[0], (), 10),
    (lambda x: lax.fori_loop(0, 7, lambda i, c: c @ c, x), (), 7),
    (_traced, (1,), 1),
    (lambda x: lax.map(lambda y: y @ y, jnp.stack([x] * 3)), (), 3),
    (lambda x: jax.vmap(lambda y: y @ y)(jnp.stack([x] * 3)), (), 3),
    (_branches, (1,), 2),
    (jax.jit(lambda x: x @ x), (), 1),
    (_ruled, (), 1),
    (jax.value_and_grad(lambda x: _ruled(x).sum()), (), 3),
    (jax.grad(lambda x: _ruled(x).sum()), (), 2),
    # The scan's products are computed again, and each has two cotangents.
    (jax.grad(jax.checkpoint(lambda x: _twice(x).sum())), (), 6),
    (
      lambda x: lax.platform_dependent(
        x, cpu=lambda x: x @ x, tpu=lambda x: x @ x @ x, default=lambda x: x
      ),
      *((), 2),
    ),
  ],
)
def test_control_flow(function, more, products):
  found = program_costs.flops(function, _shape(4, 4), *more)
  assert found == products * PRODUCT


def test_a_mapped_mesh_counts_one_device():
  mesh = jax.sharding.Mesh(jax.devices()[:2], 'data')
  spec = jax.sharding.PartitionSpec('data')
  spread = jax.shard_map(
    lambda x, y: x @ y.T, mesh=mesh, in_specs=(spec, spec), out_specs=spec
  )
  found = program_costs.flops(spread, _shape(8, 4), _shape(6, 4))
  assert found == 2 * 4 * 3 * 4


@pytest.mark.parametrize('told', [None, 100])
def test_kernels(told):
  def kernel(x_ref, y_ref):
    y_ref[...] = x_ref[...] @ x_ref[...]

  block = pl.BlockSpec((4, 4), lambda i: (i, 0))
  estimate = told and pl.CostEstimate(
    flops=told, bytes_accessed=1, transcendentals=0
  )
  call = pl.pallas_call(
    kernel,
    out_shape=_shape(12, 4),
    grid=(3,),
    in_specs=[block],
    out_specs=block,
    cost_estimate=estimate,
    interpret=True,
  )
  one = told or 3 * PRODUCT
  assert program_costs.flops(call, _shape(12, 4)) == one
  assert program_costs.flops(jax.vmap(call), _shape(5, 12, 4)) == 5 * one


# Traffic.

# Lines of an entry computation that has x f32[30,200] in HBM: 32 x 256 padded.
X = 32 * 256 * 4
HEAD = """HloModule m, is_scheduled=true

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}

%cut (p: f32[30,200], i: s32[]) -> f32[1,200] {
  %p = f32[30,200]{1,0:T(8,128)} parameter(0)
  %i = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %view = f32[30,200]{1,0:T(8,128)} bitcast(%p)
  %row = f32[1,200]{1,0:T(1,128)} dynamic-slice(%view, %i, %zero)
  ROOT %neg = f32[1,200]{1,0:T(1,128)} negate(%row)
}

%put (p: f32[30,200], r: f32[1,200], i: s32[]) -> f32[30,200] {
  %p = f32[30,200]{1,0:T(8,128)} parameter(0)
  %r = f32[1,200]{1,0:T(1,128)} parameter(1)
  %i = s32[]{:T(128)} parameter(2)
  %zero = s32[]{:T(128)} constant(0)
  %neg = f32[1,200]{1,0:T(1,128)} negate(%r)
  %new = f32[30,200]{1,0:T(8,128)} dynamic-update-slice(%p, %neg, %i, %zero)
  ROOT %same = f32[30,200]{1,0:T(8,128)} bitcast(%new)
}

%body (c: (s32[], f32[30,200])) -> (s32[], f32[30,200]) {
  %c = (s32[]{:T(128)}, f32[30,200]{1,0:T(8,128)}) parameter(0)
  %n = s32[]{:T(128)} get-tuple-element(%c), index=0
  %v = f32[30,200]{1,0:T(8,128)} get-tuple-element(%c), index=1
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)S(6)} add(%n, %one)
  %w = f32[30,200]{1,0:T(8,128)} negate(%v)
  ROOT %t = (s32[]{:T(128)}, f32[30,200]{1,0:T(8,128)}) tuple(%next, %w)
}

%below (c: (s32[], f32[30,200])) -> pred[] {
  %bound = s32[]{:T(128)} constant(13)
  %c = (s32[]{:T(128)}, f32[30,200]{1,0:T(8,128)}) parameter(0)
  %n = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %lt = pred[]{:T(512)} compare(%n, %bound), direction=LT
}

%never (c: (s32[], f32[30,200])) -> pred[] {
  %c = (s32[]{:T(128)}, f32[30,200]{1,0:T(8,128)}) parameter(0)
  %n = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %lt = pred[]{:T(512)} compare(%n, %n), direction=LT
}

%cheap (p: f32[30,200]) -> f32[30,200] {
  ROOT %p = f32[30,200]{1,0:T(8,128)} parameter(0)
}

%dear (p: f32[30,200]) -> f32[30,200] {
  %p = f32[30,200]{1,0:T(8,128)} parameter(0)
  ROOT %q = f32[30,200]{1,0:T(8,128)} negate(%p)
}

ENTRY %main (x: f32[30,200], i: s32[], v: f32[30,200]) -> f32[] {
  %x = f32[30,200]{1,0:T(8,128)} parameter(0)
  %i = s32[]{:T(128)} parameter(1)
  %v = f32[30,200]{1,0:T(8,128)S(1)} parameter(2)
  %r = f32[1,200]{1,0:T(1,128)} parameter(3)
  %zero = s32[]{:T(128)} constant(0)
  %three = s32[]{:T(128)} constant(3)
  %from3 = (s32[]{:T(128)}, f32[30,200]{1,0:T(8,128)}) tuple(%three, %x)
"""
ROW = 256 * 4
LINES = {
  'a sum of one in each memory': (
    '%y = f32[30,200]{1,0:T(8,128)} add(%x, %v)',
    2 * X,
  ),
  'nothing leaves the other memory': (
    '%y = f32[30,200]{1,0:T(8,128)S(1)} multiply(%v, %v)',
    0,
  ),
  'tiles in another order of dimensions': (
    '%y = bf16[30,200]{0,1:T(8,128)(2,1)} convert(%v)',
    200 * 128 * 2,
  ),
  'bits and bytes': (
    '%y = (pred[30,200]{1,0:T(8,128)(4,1)}, s4[8,128]{1,0}) custom-call(%v)',
    32 * 256 + 8 * 128 // 2,
  ),
  'a slice': (
    '%y = f32[1,200]{1,0:T(1,128)} dynamic-slice(%x, %i, %zero)',
    2 * ROW + 4,
  ),
  'a slice inside a fusion': (
    '%y = f32[1,200]{1,0:T(1,128)} fusion(%x, %i), kind=kLoop, calls=%cut',
    2 * ROW + 4,
  ),
  'an update': (
    '%y = f32[30,200]{1,0:T(8,128)} dynamic-update-slice(%x, %r, %i, %zero)',
    2 * ROW + 4,
  ),
  'an update inside a fusion': (
    '%y = f32[30,200]{1,0:T(8,128)} fusion(%x, %r, %i), calls=%put',
    2 * ROW + 4,
  ),
  'a copy into the other memory': (
    '%y = (f32[30,200]{1,0:T(8,128)S(1)}, f32[30,200]{1,0:T(8,128)}, '
    'u32[]{:S(2)}) copy-start(%x)\n'
    '  %z = f32[30,200]{1,0:T(8,128)S(1)} copy-done(%y)',
    X,
  ),
  'a copy within the memory': (
    '%y = (f32[30,200]{1,0:T(8,128)}, f32[30,200]{1,0:T(8,128)}, '
    'u32[]{:S(2)}) copy-start(%x)',
    2 * X,
  ),
  'a slice on its way': (
    '%y = ((f32[30,200]{1,0:T(8,128)}), f32[8,200]{1,0:T(8,128)S(1)}, '
    'u32[]{:S(2)}) slice-start(%x), slice={[0:8], [0:200]}',
    8 * 256 * 4,
  ),
  'a loop from 3 to 13': (
    '%y = (s32[]{:T(128)}, f32[30,200]{1,0:T(8,128)}) while(%from3), '
    'condition=%below, body=%body',
    10 * (2 * X + 4 + 4),
  ),
  'a loop with a note': (
    '%y = (s32[]{:T(128)}, f32[30,200]{1,0:T(8,128)}) while(%from3), '
    'condition=%never, body=%body, backend_config={"known_trip_count":{"n":"7"'
    '},"known_init_step":{"init":"3","step":"1"}}',
    7 * (2 * X + 4 + 4),
  ),
  'a loop that does not tell': (
    '%y = (s32[]{:T(128)}, f32[30,200]{1,0:T(8,128)}) while(%from3), '
    'condition=%never, body=%body',
    2 * X + 4 + 4,
  ),
  'branches': (
    '%y = f32[30,200]{1,0:T(8,128)} conditional(%i, %x, %x, %x), '
    'branch_computations={%cheap, %dear, %cheap}',
    2 * X,
  ),
  'a call': (
    '%y = f32[30,200]{1,0:T(8,128)} call(%x), to_apply=%dear',
    2 * X,
  ),
  'a message': (
    '%y = f32[30,200]{1,0:T(8,128)} all-reduce-start(%x), channel_id=1, '
    'to_apply=%sum\n'
    '  %z = f32[30,200]{1,0:T(8,128)} all-reduce-done(%y)',
    2 * X,
  ),
  'a reduction': (
    '%y = f32[30]{0:T(128)} reduce(%x, %zero), dimensions={1}, to_apply=%sum',
    X + 128 * 4,
  ),
  'a GPU library, its workspace and an array without tiles': (
    '%y = (f32[30,200]{1,0}, s8[33554432]{0}) custom-call(%x), '
    'custom_call_target="__cublas$lt$matmul", backend_config={}',
    X + 30 * 200 * 4,
  ),
  'what moves nothing': (
    '%y = f32[6000]{0} bitcast(%x)\n'
    '  %z = f32[30,200]{1,0:T(8,128)} custom-call(), '
    'custom_call_target="AllocateBuffer"',
    0,
  ),
}


@pytest.mark.parametrize('name', LINES)
def test_traffic(name):
  line, moved = LINES[name]
  text = f'{HEAD}  {line}\n}}\n'
  if 'zero), dimensions' in line:
    moved += 4  # the sum's first value, a scalar
  if 'dynamic' in line and 'fusion' not in line:
    moved += 4  # the second place, a scalar
  assert program_costs.hbm_bytes(text) == moved


def test_loops_that_do_not_tell_run_as_often_as_is_said():
  text = f'{HEAD}  {LINES["a loop that does not tell"][0]}\n}}\n'
  one, five = (program_costs.hbm_bytes(text, n) for n in (1, 5))
  assert five == 5 * one
  text = f'{HEAD}  {LINES["a loop from 3 to 13"][0]}\n}}\n'
  one, five = (program_costs.hbm_bytes(text, n) for n in (1, 5))
  assert five == one


def test_traffic_needs_a_program():
  with pytest.raises(ValueError, match='no ENTRY computation in a text of 5 '):
    program_costs.hbm_bytes('empty')


def test_traffic_of_a_real_program():
  """A CPU's has no tiles: two arrays are read, one is written, ten times."""
  size = 1 << 12

  def run(x, y):
    return lax.fori_loop(0, 10, lambda i, c: jnp.sin(c) * y, x)

  text = jax.jit(run).lower(_shape(size), _shape(size)).compile().as_text()
  found = program_costs.hbm_bytes(text)
  # The counter, and a copy of the argument that the loop would overwrite.
  assert 10 * 3 * 4 * size <= found <= 10 * 3 * 4 * size + 2 * 4 * size + 999


def test_messages():
  lines = [LINES['a message'][0], '%g = f32[60,200] all-gather(%x)']
  lines += [
    '%s = ((f32[30,200]), f32[15,200]) reduce-scatter-start(%x), calls=%inside'
  ]
  inside = (
    '%inside (p: f32[30,200]) -> f32[15,200] {\n'
    '  %p = f32[30,200] parameter(0)\n'
    '  ROOT %q = f32[15,200] reduce-scatter(%p), to_apply=%sum\n}\n\n'
  )
  body = '\n'.join(f'  {line}' for line in lines)
  text = HEAD.replace('ENTRY', f'{inside}ENTRY') + body + '\n}\n'
  assert program_costs.collectives(text) == {
    'all-reduce': 1,
    'all-gather': 1,
    'reduce-scatter': 1,
  }
  assert program_costs.collectives(HEAD + '}\n') == {}


@compilers.tpu
def test_traffic_of_a_tpu_program():
  """Each turn reads two arrays and writes one; a whole one has no padding."""
  array = 4 * compilers.SIZE**2
  moved = compilers.answers()['traffic']
  assert moved == pytest.approx(3 * array * compilers.TURNS, rel=1e-3)
