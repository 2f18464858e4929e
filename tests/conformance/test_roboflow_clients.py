"""Our server and `inference-sdk`: inputs, modes, core models, registry, workflows. Each row has its client code."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.roboflow_rig import Clients, Rig, is_person, same_boxes

clients = Clients()


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Iterator[Rig]:
    """Our server, and what the clients below said to it."""
    with Rig(tmp_path_factory.mktemp("roboflow"), shared_data, clients) as made:
        yield made


# Inputs and modes

clients.by(
    "sdk",
    "a1",
    """
    http = client()
    array = cv2.imread(args.bus)
    text = base64.b64encode(open(args.bus, "rb").read()).decode()
    return {
        "path": http.infer(args.bus, model_id="coco/9"),
        "url": http.infer(args.bus_url, model_id="coco/9"),
        "array": http.infer(array, model_id="coco/9"),
        "pillow": http.infer(Image.open(args.bus), model_id="coco/9"),
        "list": http.infer([args.bus, args.small], model_id="coco/9"),
        "base64": http.infer(text, model_id="coco/9"),
    }
    """,
)


def test_a1_every_kind_of_input_gives_the_boxes_of_predict(rig: Rig) -> None:
    found = rig.said("a1")
    for exact in ("path", "url", "base64"):
        same_boxes(found[exact], rig.predicted())
    same_boxes(found["list"][0], rig.predicted())
    assert found["list"][1]["image"] == {"width": 320, "height": 240}
    for encoded_anew in ("array", "pillow"):
        same_boxes(found[encoded_anew], rig.predicted(), within_px=20)


clients.by(
    "sdk",
    "a2",
    """
    http = client()
    found = {}
    for kind, source in (("folder", args.folder + "/photos"), ("video", args.folder + "/clip.mp4")):
        found[kind] = [
            [str(name), list(frame.shape), answer]
            for name, frame, answer in http.infer_on_stream(source, model_id="det/1")
        ]
    return found
    """,
)


def test_a2_folders_and_videos_are_gone_through(rig: Rig) -> None:
    found = rig.said("a2")
    assert sorted(Path(name).name for name, _, _ in found["folder"]) == ["0.jpg", "1.jpeg", "2.png"]
    assert len(found["video"]) == 4
    for _, _, answer in (*found["folder"], *found["video"]):
        is_person(answer)


def test_a16_a_stream_yields_number_or_path_frame_and_answer(rig: Rig) -> None:
    found = rig.said("a2")
    assert [name for name, _, _ in found["video"]] == ["0", "1", "2", "3"]
    for name, (height, width, channels), answer in found["video"] + found["folder"]:
        assert channels == 3
        assert answer["image"] == {"width": width, "height": height}, name


def test_a33_only_files_with_the_right_endings_are_sent(rig: Rig) -> None:
    assert len(rig.said("a2")["folder"]) == 3


clients.by(
    "sdk",
    "a3",
    """
    http = client()
    async def both():
        one = await http.infer_async(args.bus, model_id="coco/9")
        return [one, await http.infer_async([args.small] * 2, model_id="det/1")]
    one, two = wait(both())
    return {"sync": http.infer(args.bus, model_id="coco/9"), "async": one, "list": two}
    """,
)


def test_a3_sync_and_async_say_the_same(rig: Rig) -> None:
    found = rig.said("a3")
    same_boxes(found["sync"], rig.predicted())
    same_boxes(found["async"], rig.predicted())
    assert len(found["list"]) == 2


clients.by(
    "sdk",
    "a4",
    """
    http = client(confidence_threshold=0.1)
    http.select_model("det/1")
    with http.use_configuration(InferenceConfiguration(confidence_threshold=0.7)):
        strict = len(http.infer(args.small)["predictions"])
    loose = len(http.infer(args.small)["predictions"])
    modes = [http.client_mode.name]
    with http.use_api_v0():
        modes.append(http.client_mode.name)
        old = http.infer(args.small)
        with http.use_api_v1():
            modes.append(http.client_mode.name)
            new = http.infer(args.small)
        modes.append(http.client_mode.name)
    modes.append(http.client_mode.name)
    with http.use_model("cls/1"):
        classes = http.infer(args.small)
    after = http.infer(args.small)
    answers = {"old": old, "new": new, "after": after, "classes": classes}
    return {"strict": strict, "loose": loose, "modes": modes, **answers}
    """,
)


def test_a4_context_managers_hold_and_end(rig: Rig) -> None:
    found = rig.said("a4")
    assert (found["strict"], found["loose"]) == (1, 2)
    assert found["modes"] == ["V1", "V0", "V1", "V0", "V1"]
    for answer in ("old", "new", "after"):
        is_person(found[answer])
    assert found["classes"]["top"] == "bus"


clients.by(
    "sdk",
    "a5",
    """
    http = InferenceHTTPClient(api_url=args.url, api_key="K").select_api_v0().select_model("det/1").configure(
        InferenceConfiguration(confidence_threshold=0.7)
    )
    found = {"v0": [http.client_mode.name, http.selected_model, http.infer(args.small)]}
    found["again"] = http.infer(args.small)
    http.select_api_v1()
    found["v1"] = [http.client_mode.name, http.selected_model, http.infer(args.small)]
    return found
    """,
)


def test_a5_what_is_selected_stays(rig: Rig) -> None:
    found = rig.said("a5")
    assert found["v0"][:2] == ["V0", "det/1"]
    assert found["v1"][:2] == ["V1", "det/1"]
    for answer in (found["v0"][2], found["again"], found["v1"][2]):
        assert len(answer["predictions"]) == 1


clients.by(
    "sdk",
    "a6",
    """
    http = client()
    none = failure(lambda: http.infer(args.small))
    http.select_model("det/1")
    return {"none": none, "other": http.infer(args.small, model_id="cls/1"), "own": http.infer(args.small)}
    """,
)


def test_a6_a_model_is_named_per_call_or_missed(rig: Rig) -> None:
    found = rig.said("a6")
    assert found["none"]["type"] == "ModelNotSelectedError"
    assert found["other"]["top"] == "bus"
    is_person(found["own"])


clients.by(
    "sdk",
    "a7",
    """
    pictures = [np.full((40 + n, 60 + n, 3), 100, np.uint8) for n in range(5)]
    found = {}
    for name, http in (
        ("one", client()),
        ("batch", client(max_batch_size=5)),
        ("both", client(max_batch_size=2, max_concurrent_requests=2)),
        ("v0", client(mode="v0", max_batch_size=5, max_concurrent_requests=3)),
    ):
        before = requests_seen()
        widths = [answer["image"]["width"] for answer in http.infer(pictures, model_id="det/1")]
        found[name] = [widths, requests_seen() - before]
    return found
    """,
)


def test_a7_batches_and_parallel_requests_keep_the_order(rig: Rig) -> None:
    found = rig.said("a7")
    in_order = [60, 61, 62, 63, 64]
    # In v1 one look into the registry goes before.
    assert found == {"one": [in_order, 6], "batch": [in_order, 2], "both": [in_order, 4], "v0": [in_order, 5]}


clients.by("sdk", "a8", 'return client().infer([args.bus_url] * 5, model_id="coco/9")')


def test_a8_a_list_of_five_urls_gives_five_answers(rig: Rig) -> None:
    answers = rig.said("a8")
    assert len(answers) == 5
    for answer in answers:
        same_boxes(answer, rig.predicted())


clients.by(
    "sdk",
    "a9",
    """
    http = client()
    old = http.infer_from_api_v0(args.bus, model_id="coco/9")
    return {"sync": old, "async": wait(http.infer_from_api_v0_async([args.bus, args.small], model_id="coco/9"))}
    """,
)


def test_a9_the_legacy_route_says_the_same_as_predict(rig: Rig) -> None:
    found = rig.said("a9")
    same_boxes(found["sync"], rig.predicted())
    same_boxes(found["async"][0], rig.predicted())


# Core models

clients.by(
    "sdk",
    "a10",
    """
    http = client(max_batch_size=8)
    models = {name: http.ocr_image(args.small, model=name) for name in ("doctr", "trocr", "easy_ocr", "pp_ocr")}
    before = requests_seen()
    several = http.ocr_image([args.small, args.bus])
    return {
        "models": models,
        "several": several,
        "requests": requests_seen() - before,
        "async": wait(http.ocr_image_async(args.small)),
    }
    """,
)


def test_a10_texts_are_read_one_by_one(rig: Rig) -> None:
    found = rig.said("a10")
    assert [answer["result"] for answer in found["models"].values()] == ["a bus in a street"] * 4
    assert [answer["result"] for answer in found["several"]] == ["a bus in a street"] * 2
    assert found["requests"] == 2
    assert found["async"]["result"] == "a bus in a street"


clients.by(
    "sdk",
    "a11",
    """
    http = client(max_batch_size=3)
    return {
        "one": http.get_clip_image_embeddings(args.small),
        "batch": http.get_clip_image_embeddings([args.small] * 3),
        "async": wait(http.get_clip_image_embeddings_async(args.small)),
    }
    """,
)


def test_a11_clip_gives_a_vector_for_each_picture(rig: Rig) -> None:
    found = rig.said("a11")
    for answer in (found["one"], found["async"], *found["batch"]):
        assert answer["embeddings"] == [[1.0, 0.0, 0.0, 0.0]]
        assert "frame_id" in answer
    assert len(found["batch"]) == 3


clients.by(
    "sdk",
    "a12",
    """
    http = client()
    return {
        "one": http.get_clip_text_embeddings("fox"),
        "list": http.get_clip_text_embeddings(["fox", "dogs"]),
        "async": wait(http.get_clip_text_embeddings_async("fox")),
    }
    """,
)


def test_a12_clip_gives_a_vector_for_each_text(rig: Rig) -> None:
    found = rig.said("a12")
    assert found["one"]["embeddings"] == found["async"]["embeddings"] == [[0.0, 1.0, 0.0, 3.0]]
    assert found["list"]["embeddings"] == [[0.0, 1.0, 0.0, 3.0], [0.0, 1.0, 0.0, 4.0]]


clients.by(
    "sdk",
    "a13",
    """
    http = client()
    compare = http.clip_compare
    return {
        "image/text": compare(subject=args.small, prompt=["fox", "dog"]),
        "image/image": compare(subject=args.small, prompt=[args.small, args.bus], prompt_type="image"),
        "text/image": compare(subject="fox", prompt=args.small, subject_type="text", prompt_type="image"),
        "text/text": compare(subject="fox", prompt=["fox", "dogs"], subject_type="text", prompt_type="text"),
        "async": wait(http.clip_compare_async(subject=args.small, prompt=["fox", "dog"])),
    }
    """,
)


def test_a13_clip_compares_pictures_and_texts(rig: Rig) -> None:
    similar = {kind: answer["similarity"] for kind, answer in rig.said("a13").items()}
    assert similar["image/text"] == similar["async"] == [0.0, 0.0]
    assert similar["image/image"] == [1.0, 1.0]
    assert similar["text/image"] == [0.0]
    assert similar["text/text"] == [1.0, pytest.approx(13 / (10 * 17) ** 0.5)]


clients.by(
    "sdk037",
    "a15",
    """
    http = client(max_batch_size=2)
    return {
        "one": http.detect_gazes(args.small),
        "batch": http.detect_gazes([args.small, args.small]),
        "async": wait(http.detect_gazes_async(args.small)),
    }
    """,
)


def test_a15_faces_and_where_they_look(rig: Rig) -> None:
    found = rig.said("a15")
    for answer in (found["one"], found["async"], *found["batch"]):
        (face,) = answer["predictions"]
        assert (face["yaw"], face["pitch"]) == (pytest.approx(0.5, abs=1e-4), pytest.approx(0.25, abs=1e-4))
        assert face["face"]["x"] == 120
        assert len(face["face"]["landmarks"]) == 2
    assert len(found["batch"]) == 2


clients.by(
    "sdk037",
    "a14",
    """
    http = client()
    history = [("what is it?", "a street"), ("and the bus?", "blue")]
    ask = dict(visual_prompt=args.small, text_prompt="how many, all in all?")
    return {
        "one": http.prompt_cogvlm(**ask),
        "history": http.prompt_cogvlm(chat_history=history, **ask),
        "async": wait(http.prompt_cogvlm_async(chat_history=history, **ask)),
        "refused": failure(lambda: http.prompt_cogvlm(visual_prompt=args.small, text_prompt="x" * 10_001)),
    }
    """,
)


def test_a14_a_question_about_a_picture_and_what_was_said_before(rig: Rig) -> None:
    found = rig.said("a14")
    question = "how many, all in all?"
    for name in ("one", "history", "async"):
        assert found[name]["response"] == f"{question}: a bus in a street"
        assert found[name]["time"] >= 0
    before = ["what is it?", "a street", "and the bus?", "blue"]
    texts = [note["wishes"]["texts"] for note in rig.notes("chat")]
    assert texts == [[question], [question, *before], [question, *before]]
    assert (found["refused"]["type"], found["refused"]["status"]) == ("HTTPCallErrorError", 413)
    assert "10000 characters" in found["refused"]["message"]


# Answers

clients.by(
    "sdk",
    "a17",
    """
    plain = client().infer(args.small, model_id="cls/1")
    text = base64.b64encode(open(args.small, "rb").read()).decode()
    body = {"api_key": "K", "model_id": "cls/1", "image": {"type": "base64", "value": text}}
    raw = requests.post(args.url + "/infer/classification", json=body).json()
    drawn = client(visualize_predictions=True).infer(args.small, model_id="det/1")
    return {"plain": plain, "raw": raw, "drawn": drawn}
    """,
)


def test_a17_answers_are_handed_on_as_they_are(rig: Rig) -> None:
    found = rig.said("a17")
    changing = ("inference_id", "time")
    plain, raw = ({k: v for k, v in found[kind].items() if k not in changing} for kind in ("plain", "raw"))
    assert plain == raw
    assert isinstance(found["drawn"]["visualization"], str)


clients.by("sdk", "a18", "info = client().get_server_info()\nreturn [info.name, info.version, info.uuid]")


def test_a18_the_server_says_what_it_is(rig: Rig) -> None:
    name, version, uuid = rig.said("a18")
    assert name == "Penstock"
    assert version
    assert len(uuid) == 36


clients.by(
    "sdk",
    "a19",
    """
    http = client()
    def plain(models):
        return [[m.model_id, m.task_type, m.input_height, m.input_width] for m in models.models]
    return [plain(http.list_loaded_models()), plain(wait(http.list_loaded_models_async()))]
    """,
)


def test_a19_the_registry_names_every_model(rig: Rig) -> None:
    sync, later = rig.said("a19")
    assert sync == later
    assert ["det/1", "object-detection", 480, 640] in sync
    tasks = {name: task for name, task, _, _ in sync}
    assert tasks["coco/9"] == "object-detection"
    assert tasks["pose/1"] == "keypoint-detection"
    assert tasks["seg/1"] == "instance-segmentation"


clients.by(
    "sdk",
    "a20",
    """
    http = client()
    http.unload_model("spare/1")
    there = http.get_model_description("det/1", allow_loading=False)
    missing = failure(lambda: http.get_model_description("spare/1", allow_loading=False))
    loaded = http.get_model_description("spare/1", allow_loading=True)
    return {
        "there": there.task_type,
        "missing": missing,
        "loaded": loaded.task_type,
        "async": wait(http.get_model_description_async("det/1")).task_type,
        "unknown": failure(lambda: http.get_model_description("no/1")),
    }
    """,
)


def test_a20_a_model_is_described_and_loaded_for_it(rig: Rig) -> None:
    found = rig.said("a20")
    assert found["there"] == found["loaded"] == found["async"] == "object-detection"
    assert found["missing"]["type"] == "ModelNotInitializedError"
    assert found["unknown"]["status"] == 404
    assert "no/1" in found["unknown"]["message"]


clients.by(
    "sdk",
    "a21",
    """
    http = client()
    http.unload_model("spare/1")
    def ids(models):
        return sorted(model.model_id for model in models.models)
    found = {"plain": ids(http.load_model("spare/1")), "selected": [http.selected_model]}
    http.load_model("spare/1", set_as_default=True)
    found["selected"].append(http.selected_model)
    found["infer"] = http.infer(args.small)
    found["async"] = ids(wait(http.load_model_async("spare/1")))
    return found
    """,
)


def test_a21_a_model_is_loaded_and_made_the_default(rig: Rig) -> None:
    found = rig.said("a21")
    assert "spare/1" in found["plain"]
    assert "spare/1" in found["async"]
    assert found["selected"] == [None, "spare/1"]
    is_person(found["infer"])


clients.by(
    "sdk",
    "a23",
    """
    http = client()
    crops = http.run_workflow(
        specification=args.workflow,
        images={"image": [args.small, args.bus]},
        parameters={"threshold": 0.7},
    )
    named = http.run_workflow(workspace_name="anybody", workflow_id="boxes", images={"image": args.small})
    stored = http.run_workflow(
        workspace_name="shop", workflow_id="count", images={"image": args.small}, parameters={"threshold": 0.7}
    )
    wrong = dict(args.workflow)
    wrong["steps"] = [*wrong["steps"], {"type": "roboflow_core/stitch_images@v1", "name": "odd"}]
    refused = failure(lambda: http.run_workflow(specification=wrong, images={"image": args.small}))
    return {"crops": crops, "named": named, "stored": stored, "refused": refused}
    """,
)


def test_a23_workflows_run_by_specification_and_by_name(rig: Rig) -> None:
    found = rig.said("a23")
    assert len(found["crops"]) == 2
    for output in found["crops"]:
        assert output["count"] == 1
        is_person(output["predictions"])
        assert len(output["crops"]) == 1
        assert isinstance(output["picture"], str)
    assert [output["predictions"]["image"]["width"] for output in found["crops"]] == [320, 810]
    is_person(found["named"][0]["predictions"])
    assert len(found["named"][0]["predictions"]["predictions"]) == 2
    assert [output["count"] for output in found["stored"]] == [1]
    assert (found["refused"]["type"], found["refused"]["status"]) == ("HTTPCallErrorError", 400)
    assert "stitch_images" in found["refused"]["message"]


clients.by(
    "sdk",
    "a24",
    """
    http = client()
    return {
        "given": http.infer_from_workflow(specification=args.workflow, images={"image": args.small}),
        "named": http.infer_from_workflow(workspace_name="any", workflow_name="boxes", images={"image": args.small}),
    }
    """,
)


def test_a24_the_old_spelling_of_workflows_works(rig: Rig) -> None:
    found = rig.said("a24")
    assert found["given"][0]["count"] == 2
    is_person(found["named"][0]["predictions"])


clients.by(
    "sdk",
    "a25",
    """
    folder = os.path.join(os.getcwd(), "traces")
    http = client(profiling_directory=folder)
    options = dict(specification=args.workflow, images={"image": args.small})
    uncached = http.run_workflow(use_cache=False, **options)
    http.run_workflow(enable_profiling=True, **options)
    (file,) = glob.glob(folder + "/*.json")
    return {"uncached": uncached[0]["count"], "trace": json.load(open(file))}
    """,
)


def test_a25_a_run_is_profiled_into_a_file(rig: Rig) -> None:
    found = rig.said("a25")
    assert found["uncached"] == 2
    assert [event["name"] for event in found["trace"]] == ["model", "sure", "crop", "draw", "count"]
    assert all(event["dur"] >= 0 for event in found["trace"])


# The last: it takes all models out.

clients.by(
    "sdk alone",
    "a22",
    """
    http = client()
    def ids(models):
        return sorted(model.model_id for model in models.models)
    found = {"one": ids(http.unload_model("spare/1")), "async": ids(wait(http.unload_model_async("other/1")))}
    http.select_model("det/1")
    http.unload_model("det/1")
    found["selected"] = http.selected_model
    found["all"] = ids(http.unload_all_models())
    found["infer"] = http.infer(args.small, model_id="det/1")  # loads it again by itself
    found["after"] = ids(http.list_loaded_models())
    found["all_async"] = ids(wait(http.unload_all_models_async()))
    return found
    """,
)


def test_a22_models_are_taken_out_and_come_back_when_they_are_used(rig: Rig) -> None:
    found = rig.said("a22")
    assert "spare/1" not in found["one"]
    assert "other/1" in found["one"]
    assert "other/1" not in found["async"]
    assert found["selected"] is None
    assert found["all"] == found["all_async"] == []
    is_person(found["infer"])
    assert found["after"] == ["boxes", "det/1"]
