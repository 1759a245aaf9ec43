"""Reading compiled programs: by hand on short texts, and against XLA's own account on the CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from fer_jax.errors import FerJaxError
from fer_jax.plan.collectives import Collective, count_collectives, replica_groups, sent_bytes
from fer_jax.plan.hlo import parse_hlo
from fer_jax.plan.traffic import memory_traffic

# As the TPU compiler writes them: tiles in the layout, S(1) for memory on the chip, an all-gather
# that overlaps with other work written several times under one channel, a reduce-scatter as an
# all-reduce in a fusion.
TEXT = """\
HloModule jit_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  %y = f32[]{:T(128)} parameter(1)
  ROOT %add.1 = f32[]{:T(128)} add(%x, %y)
}

%gather_start (p: bf16[1,4]) -> (bf16[1,4], bf16[2,4]) {
  %p = bf16[1,4]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-gather.1 = bf16[2,4]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=5, \
replica_groups=[2,2]<=[4], dimensions={0}
  ROOT %custom-call.1 = (bf16[1,4]{1,0}, bf16[2,4]{1,0:T(8,128)(2,1)}) custom-call(%p)
}

%gather_done (q: bf16[1,4]) -> bf16[2,4] {
  %q = bf16[1,4]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  ROOT %all-gather.2 = bf16[2,4]{1,0:T(8,128)(2,1)} all-gather(%q), channel_id=5, \
replica_groups=[2,2]<=[4], dimensions={0}
}

%all-reduce-scatter.1 (r: f32[8,16]) -> f32[2,16] {
  %r = f32[8,16]{1,0} parameter(0)
  %all-reduce.7 = f32[8,16]{1,0} all-reduce(%r), channel_id=6, replica_groups={{0,1,2,3}}, \
to_apply=%add
  %zero = s32[] constant(0)
  ROOT %dynamic-slice.1 = f32[2,16]{1,0} dynamic-slice(%all-reduce.7, %zero, %zero), \
dynamic_slice_sizes={2,16}
}

%body (b: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %b = (s32[]{:T(128)}, /*index=1*/f32[8,16]{1,0}) parameter(0)
  %small = bf16[1,4]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%b), index=1
  %start = (bf16[1,4]{1,0}, bf16[2,4]{1,0:T(8,128)(2,1)}) fusion(%small), kind=kCustom, \
calls=%gather_start
  %done = bf16[2,4]{1,0:T(8,128)(2,1)} fusion(%small), kind=kCustom, calls=%gather_done
  %big = f32[8,16]{1,0} get-tuple-element(%b), index=1
  %scattered = f32[2,16]{1,0} fusion(%big), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %out = (s32[], f32[8,16]{1,0}) tuple(%b, %big)
}

%condition (c: (s32[], f32[8,16])) -> pred[] {
  %c = (s32[]{:T(128)}, f32[8,16]{1,0}) parameter(0)
  %at = s32[]{:T(128)} get-tuple-element(%c), index=0
  %limit = s32[]{:T(128)} constant(12)
  ROOT %lt.1 = pred[]{:T(512)} compare(%at, %limit), direction=LT
}

ENTRY %main (first: f32[8,16]) -> f32[8,16] {
  %first = f32[8,16]{1,0:T(8,128)} parameter(0), sharding={replicated}
  %begin = s32[] constant(0)
  %state = (s32[], f32[8,16]{1,0}) tuple(%begin, %first)
  %while.1 = (s32[], f32[8,16]{1,0}) while(%state), condition=%condition, body=%body
  %last = f32[8,16]{1,0} get-tuple-element(%while.1), index=1
  %reduce = f32[8,16]{1,0} all-reduce(%last), channel_id=9, \
replica_groups=mesh['x'=2,'y'=2] {'x'}, to_apply=%add
  ROOT %moved = f32[8,16]{1,0} collective-permute(%reduce), channel_id=10, \
source_target_pairs={{0,1},{1,0}}
}
"""
BIG, GATHERED = 8 * 16 * 4, 2 * 4 * 2  # bytes


def test_collectives_are_counted_by_hand():
    found = count_collectives(parse_hlo(TEXT), [0, 0, 1, 1])
    assert found == [
        # Two texts under one channel are one; in the loop of twelve rounds.
        Collective("all-gather", False, 12, 12 * GATHERED, 12 * GATHERED // 2),
        Collective("all-reduce", True, 1, BIG, BIG),
        Collective("collective-permute", False, 1, BIG, BIG),
        Collective("reduce-scatter", True, 12, 12 * BIG, 12 * BIG * 3 // 4),
    ]


def test_a_loop_that_depends_on_data_counts_once():
    unknown = parse_hlo(TEXT.replace("direction=LT", "direction=GT"))
    assert unknown.unknown_loops() == ["while.1"]
    assert {one.kind: one.count for one in count_collectives(unknown, [0] * 4)} == {
        "all-gather": 1,
        "all-reduce": 1,
        "collective-permute": 1,
        "reduce-scatter": 1,
    }
    assert not parse_hlo(TEXT).unknown_loops()
    told = TEXT.replace(
        "body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"7"}}'
    ).replace("constant(12)", "constant(99)")
    assert dict(parse_hlo(told).runs())["body"] == 7


def test_a_text_that_is_no_program_is_refused():
    with pytest.raises(FerJaxError, match="no ENTRY"):
        parse_hlo("HloModule nothing")


def test_what_crosses_the_network_between_slices_is_sent_to_the_host():
    text = """\
ENTRY %main (a: f32[64,128]) -> f32[64,128] {
  %a = f32[64,128]{1,0:T(8,128)} parameter(0)
  %near = f32[64,128]{1,0} all-reduce(%a), channel_id=1, replica_groups={{0,1},{2,3}}, to_apply=%s
  %token = token[] after-all()
  %send = (f32[64,128]{1,0:T(8,128)}, u32[], token[]) send(%near, %token), channel_id=2, \
is_host_transfer=true, frontend_attributes={_xla_megascale_target="{1,2}x{0:1}",\
_xla_megascale_transfer_type="ALL_REDUCE"}
  %send-done = token[] send-done(%send), channel_id=2, is_host_transfer=true
  ROOT %out = f32[64,128]{1,0} copy(%near)
}

%s (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}
"""
    size = 64 * 128 * 4
    assert count_collectives(parse_hlo(text), [0, 0, 1, 1]) == [
        Collective("all-reduce", False, 1, size, size),
        Collective("all-reduce", True, 1, size, size),
    ]


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,2},{1,3}}", [[0, 2], [1, 3]]),
        ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['x'=2,'y'=2] {'x'}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['x'=2,'y'=2] {'y'}", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['x'=2,'y'=2] {'x','y'}", [[0, 1, 2, 3]]),
        ("replica_groups=mesh['x'=2,'y'=2], device_ids=([2,2]T(1,0)) {'y'}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['x'=4] {'x':(1)2}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['x'=4] {'x':(2)2}", [[0, 1], [2, 3]]),
        ("replica_groups={}", [[0, 1, 2, 3]]),
    ],
)
def test_who_works_together(text, groups):
    """In each of XLA's ways to write it; sub-axes are taken from the outer side."""
    assert sorted(map(sorted, replica_groups(text, 4).tolist())) == groups


def test_bytes_that_are_sent():
    """Ring algorithms: each chip passes on n - 1 of n parts, twice for a sum that all get."""
    assert sent_bytes("all-reduce", 800, 8) == 1400
    assert sent_bytes("all-gather", 800, 8) == 700
    assert sent_bytes("reduce-scatter", 800, 2) == 400
    assert sent_bytes("all-to-all", 800, 8) == 700
    assert sent_bytes("collective-permute", 800, 8) == 800


def layers(mesh, planted):
    """Five layers on a batch that lies over all devices, and back."""
    batch = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    copied = NamedSharding(mesh, PartitionSpec())

    def step(x, weights):
        def layer(x, w):
            y = jnp.tanh(x @ w)
            if planted:
                y = jax.lax.with_sharding_constraint(y, copied)
            return jax.lax.with_sharding_constraint(y, batch), None

        return jax.lax.scan(layer, x, weights)[0]

    shapes = (
        jax.ShapeDtypeStruct((64, 32), np.float32),
        jax.ShapeDtypeStruct((5, 32, 32), np.float32),
    )
    jitted = jax.jit(step, in_shardings=(batch, copied), out_shardings=batch)
    return parse_hlo(jitted.lower(*shapes).compile().as_text())


def test_a_planted_all_gather_is_seen():
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    assert count_collectives(layers(mesh, planted=False), [0] * 8) == []
    size = 5 * 64 * 32 * 4  # bytes: of each of the five layers the whole array
    assert count_collectives(layers(mesh, planted=True), [0] * 8) == [
        Collective("all-gather", False, 5, size, size * 7 // 8)
    ]


def test_traffic_is_xlas_where_nothing_loops():
    def function(a, b):
        y = a @ b
        return jnp.tanh(y + 1).sum(0), y * 2, jnp.sort(y, axis=0)

    shapes = (
        jax.ShapeDtypeStruct((256, 128), np.float32),
        jax.ShapeDtypeStruct((128, 512), np.float32),
    )
    compiled = jax.jit(function).lower(*shapes).compile()
    theirs = compiled.cost_analysis()["bytes accessed"]
    # XLA counts scalars among the operands of fusions; measured 2e-5 apart.
    assert memory_traffic(parse_hlo(compiled.as_text())) == pytest.approx(theirs, rel=1e-3)


def test_traffic_counts_a_loop_as_often_as_it_runs_and_of_its_layers_each_once():
    def looped(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    def moved(rounds):
        shapes = (
            jax.ShapeDtypeStruct((256, 256), np.float32),
            jax.ShapeDtypeStruct((rounds, 256, 256), np.float32),
        )
        compiled = jax.jit(looped).lower(*shapes).compile()
        return memory_traffic(parse_hlo(compiled.as_text()))

    # A round reads x and its own weights and writes the product, then reads and writes tanh: five
    # arrays; with its slice cut out or x copied first, up to eight. All weights would be many more.
    rounds = (moved(40) - moved(20)) / 20 / (256 * 256 * 4)
    assert 5 <= rounds <= 8.1


def test_memory_on_the_chip_costs_no_traffic():
    text = """\
ENTRY %main (a: f32[64,128]) -> f32[64,128] {
  %a = f32[64,128]{1,0:T(8,128)} parameter(0)
  %exp = f32[64,128]{1,0:T(8,128)S(1)} exponential(%a)
  %log = f32[64,128]{1,0:T(8,128)S(1)} log(%exp)
  %set_aside = f32[999]{0} custom-call(), custom_call_target="AllocateBuffer"
  %copy-start = (f32[64,128]{1,0:S(1)}, f32[64,128]{1,0}, u32[]{:S(2)}) copy-start(%a)
  %copy-done = f32[64,128]{1,0:S(1)} copy-done(%copy-start)
  ROOT %out = f32[64,128]{1,0:T(8,128)} add(%log, %copy-done)
}
"""
    # %a is read twice, once by the copy; the result is written once.
    assert memory_traffic(parse_hlo(text)) == 3 * 64 * 128 * 4


def test_a_fusion_that_cuts_or_writes_a_slice_moves_the_slice():
    text = """\
%inner (p: f32[12,64], i: s32[]) -> f32[1,64] {
  %p = f32[12,64]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %cut = f32[1,64]{1,0} dynamic-slice(%p, %i, %i), dynamic_slice_sizes={1,64}
}

%outer (q: f32[12,64], r: f32[12,64], j: s32[]) -> f32[12,64] {
  %q = f32[12,64]{1,0} parameter(0)
  %r = f32[12,64]{1,0} parameter(1)
  %j = s32[] parameter(2)
  %one = f32[1,64]{1,0} fusion(%q, %j), kind=kLoop, calls=%inner
  ROOT %all = f32[12,64]{1,0} dynamic-update-slice(%r, %one, %j, %j)
}

ENTRY %main (a: f32[12,64], b: f32[12,64], k: s32[]) -> f32[12,64] {
  %a = f32[12,64]{1,0} parameter(0)
  %b = f32[12,64]{1,0} parameter(1)
  %k = s32[] parameter(2)
  ROOT %done = f32[12,64]{1,0} fusion(%a, %b, %k), kind=kLoop, calls=%outer
}
"""
    # A row in, a row out, and the index of four bytes.
    assert memory_traffic(parse_hlo(text)) == 2 * 64 * 4 + 4
    # An unrolled layer cuts its part out at a fixed place.
    fixed = text.replace("dynamic-slice(%p, %i, %i), dynamic_slice_sizes={1,64}", "slice(%p)")
    assert memory_traffic(parse_hlo(fixed)) == 2 * 64 * 4 + 4
    kept = text.replace("ROOT %done = f32[12,64]{1,0}", "ROOT %done = f32[12,64]{1,0:S(1)}")
    assert memory_traffic(parse_hlo(kept)) == 64 * 4 + 4
