"""The Roboflow dialect of the inference server: what `inference-sdk`, `roboflow` and programs like them talk to.

Registry, `/infer/...`, the legacy route, core models, workflows, stream manager. Format: version 1.8.3 of Roboflow's
inference server, as its clients use it.
"""

from functools import partial
from pathlib import Path

from pipeline.server.inference._roboflow_answers import Bench, refuse, token_of
from pipeline.server.inference._roboflow_core import Core
from pipeline.server.inference._roboflow_infer import Inference
from pipeline.server.inference._roboflow_legacy import Legacy
from pipeline.server.inference._roboflow_models import Models
from pipeline.server.inference._roboflow_pipelines import Pipelines
from pipeline.server.inference._roboflow_workflows import Workflows, stored_in
from pipeline.server.inference.service import Dialect, Service
from pipeline.server.inference.streams import Streams


def dialect(service: Service, streams: Streams | None = None, workflows: Path | None = None) -> Dialect:
    """All its routes.

    Args:
        service: what they work with.
        streams: the running pipeline's sources, for `/inference_pipelines`; left out: there are none.
        workflows: a folder with definitions, `WORKSPACE/ID.json`; left out: only those that come with the request.
    """
    bench = Bench()
    inference = Inference(service, bench)
    running = Workflows(service, bench, stored_in(workflows))
    pipelines = Pipelines(service, running, bench, streams or Streams())

    async def close() -> None:
        await pipelines.close()
        bench.close()

    return Dialect(
        name="roboflow",
        routes=(
            *Models(service).routes(),
            *inference.routes(),
            *Core(service).routes(),
            *pipelines.routes(),
            *running.routes(),
            *Legacy(service, inference).routes(),
        ),
        refuse=refuse,
        token=partial(token_of, service),
        close=close,
    )
