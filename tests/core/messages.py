"""One message of each kind, and the bytes that it has been since version 3."""

from __future__ import annotations

from typing import Final

from symbiosis_core.errors import RefusalCode
from symbiosis_core.ids import OpId, Token
from symbiosis_core.segments import Fn, Node, Segment
from symbiosis_core.specs import DType, LentTensor, ModelSpec, OpKind, OpSpec, Plane, TensorKind, TensorSpec
from symbiosis_core.wire import (
    AskQuota,
    BatchStatus,
    Borrow,
    Capability,
    ClientStatus,
    Configure,
    Configured,
    DaemonStatus,
    Describe,
    Fetch,
    Hello,
    LaneStatus,
    Learn,
    Learned,
    Loan,
    MemoryStatus,
    ModelReply,
    ModelStatus,
    QuotaState,
    Refused,
    Reply,
    Request,
    Status,
    StatusReply,
    TakeTrace,
    TensorPart,
    TraceTaken,
    Welcome,
)

__all__ = ["GOLDEN", "REPLIES", "REQUESTS", "SEGMENT"]

SEGMENT: Final = Segment(
    inputs=(Plane(576, DType.BFLOAT16), Plane(1, DType.INT64)),
    tensors=("norm.weight",),
    nodes=(
        Node(Fn.MUL, (2, 0)),
        Node(Fn.POW, (3,), number=2.0),
        Node(Fn.CAST, (4,), dtype=DType.FLOAT32),
        Node(Fn.TAKE, (5,), start=1, width=8),
    ),
    outputs=(3, 6),
)

REQUESTS: Final[dict[str, Request]] = {
    "hello": Hello("job-7", "training", "smollm2", 4321, (Capability("posix_shm", "b00t", ("GPU-1",)),), "secret"),
    "hello again": Hello("job-7", "training", instead=Token("gone")),
    "describe": Describe("smollm2"),
    "fetch": Fetch("smollm2", "model.norm.weight", 4096),
    "learn": Learn("smollm2", SEGMENT),
    "borrow": Borrow("smollm2", "b00t"),
    "status": Status(),
    "ask_quota": AskQuota(3),
    "take_trace": TakeTrace(1, True),
    "configure": Configure("a.toml", "[lanes.a]\npriority = 0\n"),
}

_MODEL = ModelSpec(
    name="smollm2",
    name_or_path="org/smollm2",
    fingerprint="f00d",
    dtype=DType.BFLOAT16,
    base_bytes=265,
    config_json="{}",
    generation_config_json="{}",
    ops=(OpSpec(OpId(0), OpKind.LINEAR, ("l.q", "l.k"), 576, (576, 192), DType.BFLOAT16),),
    tensors=(TensorSpec("norm.weight", TensorKind.PARAMETER, DType.BFLOAT16, (576,)),),
    ties=(("embed.weight", "head.weight"),),
)
_STATUS = DaemonStatus(
    version="0.1.0",
    pid=10,
    uptime_s=1.5,
    address="ipc:///tmp/s",
    model="smollm2",
    dtype="bfloat16",
    fingerprint="f00d",
    policy="latency_first",
    threads=2,
    draining=False,
    clients=(
        ClientStatus(
            3, "job-7", "training", 4321, "posix_shm", 1.0, 7, 70, 1, 0, 250.0, 900.0, 1 << 20, user="me"
        ),
    ),
    lanes=(LaneStatus("training", 10, 1, 1, 5, 7, 70, 0),),
    batches=BatchStatus(7, 7, 70, 7, 0.5),
    memory=MemoryStatus(265, 1 << 20, 300),
    models=(ModelStatus("smollm2", "bfloat16", 265, 211, "f00d", True, 1, 7, 70, "int8"),),
)

REPLIES: Final[dict[str, Reply]] = {
    "welcome": Welcome(
        client=3,
        token=Token("ab"),
        token_valid_s=5.0,
        model="smollm2",
        lane="training",
        transport="posix_shm",
        endpoint="ipc:///tmp/s.data",
        max_rows=65536,
        reasons=("posix_shm: chosen",),
        exact=True,
    ),
    "model": ModelReply(_MODEL),
    "tensor": TensorPart(0, 4, b"\x00\x01\x02\x03"),
    "learned": Learned(212),
    "loan": Loan("/tmp/s.data", "f00d", 8192, (LentTensor("l.q.weight", DType.BFLOAT16, (576, 2), 64),)),
    "status_reply": StatusReply(_STATUS),
    "refused": Refused(RefusalCode.QUOTA, "64 clients are connected", "wait", 2.0),
    "trace_taken": TraceTaken(1, b"\x01\x02", 3),
    "quota_state": QuotaState("used up", "wait", 1.5),
    "configured": Configured("fifo", ("a",), ("a note",)),
}

# fmt: off
GOLDEN: Final[dict[str, bytes]] = {
    "hello": (
        b"\x87\xa4type\xa5hello\xa4name\xa5job-7\xa4lane\xa8training\xa5model\xa7smol"
        b"lm2\xa3pid\xcd\x10\xe1\xaccapabilities\x91\x83\xa9transport\xa9posix_shm\xa7bo"
        b"ot_id\xa4b00t\xa7devices\x91\xa5GPU-1\xa3key\xa6secret"
    ),
    "hello again": (
        b"\x84\xa4type\xa5hello\xa4name\xa5job-7\xa4lane\xa8training\xa7instead\xa4gone"
    ),
    "describe": b"\x82\xa4type\xa8describe\xa5model\xa7smollm2",
    "fetch": b"\x84\xa4type\xa5fetch\xa5model\xa7smollm2\xa6tensor\xb1model.norm.weight\xa6offset\xcd\x10\x00",
    "learn": (
        b'\x83\xa4type\xa5learn\xa5model\xa7smollm2\xa7segment\x94\x92\x92\xcd\x02@\x02\x92\x01\x04\x91\xabnorm.weight\x94\x97\xa3mul\x92\x02\x00\xff\xc0\x00\x00\xc0\x97\xa3pow\x91\x03\xff\xcb@\x00\x00\x00\x00\x00\x00\x00\x00\x00\xc0\x97\xa4cast\x91\x04\xff'
        b'\xc0\x00\x00\x01\x97\xa4take\x91\x05\xff\xc0\x01\x08\xc0\x92\x03\x06'
    ),
    "learned": b'\x82\xa4type\xa7learned\xa2op\xcc\xd4',
    "borrow": b'\x83\xa4type\xa6borrow\xa5model\xa7smollm2\xa7boot_id\xa4b00t',
    "loan": (
        b"\x85\xa4type\xa4loan\xa8endpoint\xab/tmp/s.data\xabfingerprint\xa4f00d\xaalent_bytes\xcd \x00"
        b"\xa7tensors\x91\x94\xaal.q.weight\x02\x92\xcd\x02@\x02@"
    ),
    "status": b"\x81\xa4type\xa6status",
    "welcome": (
        b"\x8b\xa4type\xa7welcome\xa6client\x03\xa5token\xa2ab\xadtoken_valid_s\xcb@\x14\x00\x00\x00\x00\x00\x00"
        b"\xa5model\xa7smollm2\xa4lane\xa8training\xa9transport\xa9posix_shm\xa8endpoint\xb1ipc:///tmp/s.data"
        b"\xa8max_rows\xce\x00\x01\x00\x00\xa7reasons\x91\xb1posix_shm: chosen\xa5exact\xc3"
    ),
    "model": (
        b"\x82\xa4type\xa5model\xa4spec\x8a\xa4name\xa7smollm2\xacname_or_path\xaborg/smollm2\xabfingerprint"
        b"\xa4f00d\xa5dtype\x02\xaabase_bytes\xcd\x01\t\xabconfig_json\xa2{}\xb6generation_config_json\xa2{}"
        b"\xa3ops\x91\x98\x00\xa6linear\x92\xa3l.q\xa3l.k\xcd\x02@\x92\xcd\x02@\xcc\xc0\x02\xff\xc2"
        b"\xa7tensors\x91\x94\xabnorm.weight\xa9parameter\x02\x91\xcd\x02@"
        b"\xa4ties\x91\x92\xacembed.weight\xabhead.weight"
    ),
    "tensor": b"\x84\xa4type\xa6tensor\xa6offset\x00\xabtotal_bytes\x04\xa4data\xc4\x04\x00\x01\x02\x03",
    "status_reply": (
        b"\x82\xa4type\xacstatus_reply\xa6status\xde\x00\x14\xa7version\xa50.1.0\xa3pid\n"
        b"\xa8uptime_s\xcb?\xf8\x00\x00\x00\x00\x00\x00\xa7address\xacipc:///tmp/s\xa5model\xa7smollm2"
        b"\xa5dtype\xa8bfloat16\xabfingerprint\xa4f00d\xa6policy\xadlatency_first\xa7threads\x02\xa8draining\xc2"
        b"\xa7clients\x91\xde\x00\x0e\xa2id\x03\xa4name\xa5job-7\xa4lane\xa8training\xa3pid\xcd\x10\xe1"
        b"\xa9transport\xa9posix_shm\xabconnected_s\xcb?\xf0\x00\x00\x00\x00\x00\x00\xa8requests\x07\xa4rowsF"
        b"\xa6queued\x01\xa7refused\x00\xa6p50_us\xcb@o@\x00\x00\x00\x00\x00"
        b"\xa6p99_us\xcb@\x8c \x00\x00\x00\x00\x00"
        b"\xabarena_bytes\xce\x00\x10\x00\x00\xa4user\xa2me\xa5lanes\x91\x88\xa4name\xa8training\xa8priority\n\xa7clients\x01"
        b"\xafqueued_requests\x01\xabqueued_rows\x05\xa8requests\x07\xa4rowsF\xa4aged\x00"
        b"\xa7batches\x85\xa5count\x07\xa8requests\x07\xa4rowsF\xa7clients\x07"
        b"\xa6busy_s\xcb?\xe0\x00\x00\x00\x00\x00\x00"
        b"\xa6memory\x83\xa4base\xcd\x01\t\xa6arenas\xce\x00\x10\x00\x00\xa3pss\xcd\x01,"
        b"\xa5holds\x8b\xa5count\x00\xa4hits\x00\xabexpected_us\xcb\x00\x00\x00"
        b"\x00\x00\x00\x00\x00\xa9actual_us\xcb\x00\x00\x00\x00\x00\x00\x00\x00\xb3prediction_"
        b"error_us\xcb\x00\x00\x00\x00\x00\x00\x00\x00\xa8pause_us\xcb\x00\x00\x00\x00\x00\x00\x00\x00\xa3"
        b"off\xc2\xa9waited_us\x00\xa6missed\x00"
        b"\xacdue_error_us\xcb\x00\x00\x00\x00\x00\x00\x00\x00\xaacost_error\xcb\x00\x00\x00\x00\x00\x00\x00\x00"
        b"\xa4memo\x84\xa5bytes\x00\xa6budget\x00\xa4hits\x00\xa6miss"
        b"es\x00\xa5spins\x82\xa5looks\x00\xa4hits\x00\xa6device\xa3cpu\xaet"
        b"hreads_policy\xa0\xa6models\x91\x8a\xa4name\xa7smollm2\xa5dtype\xa8bfloat16\xa5bytes\xcd\x01\t"
        b"\xa3ops\xcc\xd3\xabfingerprint\xa4f00d\xa7default\xc3\xa7clients\x01\xa7batches\x07\xa4rowsF"
        b"\xa9quantized\xa4int8"
    ),
    "refused": (
        b"\x85\xa4type\xa7refused\xa4code\xa5quota\xa6reason\xb864 clients are connected\xa6remedy\xa4wait"
        b"\xadretry_after_s\xcb@\x00\x00\x00\x00\x00\x00\x00"
    ),
    "ask_quota": (
        b"\x82\xa4type\xa9ask_quota\xa6client\x03"
    ),
    "configure": (
        b"\x83\xa4type\xa9configure\xa6source\xa6a.toml\xa4text\xb7[lanes.a]\npr"
        b"iority = 0\n"
    ),
    "quota_state": (
        b"\x84\xa4type\xabquota_state\xa6reason\xa7used up\xa6remedy\xa4wait\xadre"
        b"try_after_s\xcb?\xf8\x00\x00\x00\x00\x00\x00"
    ),
    "configured": (
        b"\x84\xa4type\xaaconfigured\xa6policy\xa4fifo\xa5lanes\x91\xa1a\xa5notes\x91\xa6a "
        b"note"
    ),
    "take_trace": (b"\x83\xa4type\xaatake_trace\xa9recording\x01\xa4stop\xc3"),
    "trace_taken": (b"\x84\xa4type\xabtrace_taken\xa9recording\x01\xa4data\xc4\x02\x01\x02\xa7dropped\x03"),
}
# fmt: on
