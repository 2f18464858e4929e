"""The checklist: every feature of the vendors' reference documents, and how it can be tested offline."""

from typing import Literal, NamedTuple

Mark = Literal["V", "P", "M", "X", "L", "N"]
"""V: by the vendor's current client; P: by an older one, pinned; M: with a small fake platform; X: the real client
lacks or breaks it, so by plain HTTP; L: happens inside of the client, without traffic; N: not testable offline."""


class Row(NamedTuple):
    """One feature.

    Attributes:
        id: the tests that show it carry it in their names, in lower case: `test_a7_...`.
        reference: which document asks for it.
        feature: what it is.
        items: how many things are to be shown.
        mark: how it can be.
        why: why there is none, where there is no test, or not for all items.
    """

    id: str
    reference: str
    feature: str
    items: int
    mark: Mark
    why: str = ""


_CLIENT = "Roboflow client"
_SERVERLESS = "Roboflow serverless"
_SUPERVISELY = "Supervisely"
_HUGGING_FACE = "Hugging Face"

ROWS: tuple[Row, ...] = (
    Row("A1", _CLIENT, "inputs: local path, URL, ndarray, PIL, list, base64 string", 6, "V"),
    Row("A2", _CLIENT, "inputs: directory, video file (infer_on_stream)", 2, "V"),
    Row("A3", _CLIENT, "sync infer, async infer_async", 2, "V"),
    Row("A4", _CLIENT, "use_configuration, use_api_v0, use_api_v1, use_model (context managers restore state)", 4, "V"),
    Row("A5", _CLIENT, "configure, select_api_v0, select_api_v1, select_model (sticky), chained construction", 5, "V"),
    Row("A6", _CLIENT, "model_id override per call; error when no model chosen", 2, "V"),
    Row("A7", _CLIENT, "max_concurrent_requests; max_batch_size in v1; v0 forces 1", 3, "V"),
    Row("A8", _CLIENT, "batch list [url]*5", 1, "V"),
    Row("A9", _CLIENT, "infer_from_api_v0 + async", 2, "V"),
    Row("A10", _CLIENT, "ocr_image + async, forced batch 1", 3, "V"),
    Row("A11", _CLIENT, "get_clip_image_embeddings single, batch, async", 3, "V"),
    Row("A12", _CLIENT, "get_clip_text_embeddings single, list, async", 3, "V"),
    Row("A13", _CLIENT, "clip_compare image/text, image/image, text/image, text/text, async", 5, "V"),
    Row("A14", _CLIENT, "prompt_cogvlm, chat_history", 2, "P"),
    Row("A15", _CLIENT, "detect_gazes single, batch, async", 3, "P"),
    Row("A16", _CLIENT, "infer_on_stream yields (frame no, frame, prediction) / (path, image, prediction)", 2, "V"),
    Row("A17", _CLIENT, "plain dict results untouched except visualization and rescaling", 2, "V"),
    Row("A18", _CLIENT, "get_server_info", 1, "V"),
    Row("A19", _CLIENT, "list_loaded_models + async", 2, "V"),
    Row("A20", _CLIENT, "get_model_description allow_loading true / false, async", 3, "V"),
    Row("A21", _CLIENT, "load_model, set_as_default, async", 3, "V"),
    Row("A22", _CLIENT, "unload_model + async; unload_all_models + async", 4, "V"),
    Row("A23", _CLIENT, "run_workflow: specification; workspace+id; images; parameters", 4, "V"),
    Row("A24", _CLIENT, "infer_from_workflow (deprecated) both forms", 2, "V"),
    Row("A25", _CLIENT, "use_cache=False; enable_profiling; profiling_directory file", 3, "V"),
    Row("A26", _CLIENT, "server-side 15-min definition cache", 1, "N", "a feature of Roboflow's own servers"),
    Row("A27", _CLIENT, "v0 fields", 20, "V"),
    Row("A28", _CLIENT, "v1 classification fields", 11, "V"),
    Row("A29", _CLIENT, "v1 object detection fields", 18, "V"),
    Row("A30", _CLIENT, "v1 keypoints fields: as OD + keypoint_confidence", 19, "V"),
    Row("A31", _CLIENT, "v1 instance segmentation fields: as OD + mask_decode_mode, tradeoff_factor", 20, "V"),
    Row("A32", _CLIENT, "output_visualisation_format BASE64 / NUMPY / PILLOW", 3, "V"),
    Row("A33", _CLIENT, "image_extensions_for_directory_scan", 1, "L", "happens inside of the client, without traffic"),
    Row("A34", _CLIENT, "client_downsizing_disabled; default_max_input_size; registry size used in v1", 3, "V"),
    Row(
        "A35",
        _CLIENT,
        "mode chosen from URL (local to v1; hosted to v0)",
        2,
        "L",
        "happens inside of the client, without traffic",
    ),
    Row(
        "A36",
        _CLIENT,
        "WrongClientModeError for registry calls in v0",
        1,
        "L",
        "happens inside of the client, without traffic",
    ),
    Row(
        "A37",
        _CLIENT,
        "running against hosted *.roboflow.com and infer.roboflow.com",
        2,
        "N",
        "needs the internet and keys",
    ),
    Row("A38", _CLIENT, "tasks on v0: classification, OD, IS, keypoints", 4, "V"),
    Row("B1", _SERVERLESS, "POST /{dataset_id}/{version_id}: both path parameters", 2, "V"),
    Row("B2", _SERVERLESS, "query: all parameters but image and image_type", 18, "V"),
    Row("B3", _SERVERLESS, "query: image", 1, "V"),
    Row("B4", _SERVERLESS, "query: image_type", 1, "X"),
    Row("B5", _SERVERLESS, "200 schemas: IS, KP, OD, classification, multi-label, semantic segmentation, stub", 7, "V"),
    Row("B6", _SERVERLESS, '200 "any" = image/jpeg for format=image', 1, "V"),
    Row("B7", _SERVERLESS, "422 validation body (HTTPValidationError)", 1, "V"),
    Row(
        "B8",
        _SERVERLESS,
        "hosted base URL serverless.roboflow.com, real key rules",
        1,
        "N",
        "needs the internet and keys",
    ),
    Row(
        "B9",
        _SERVERLESS,
        "body dialects: base64 under application/json, form-urlencoded, multipart file, no body + image=",
        4,
        "V",
    ),
    Row(
        "C1",
        _SUPERVISELY,
        "api.nn.deploy / deploy_custom_model (pretrained, custom checkpoint)",
        2,
        "N",
        "needs the platform and an agent",
    ),
    Row("C2", _SUPERVISELY, "api.nn.connect(task_id)", 1, "M"),
    Row("C3", _SUPERVISELY, "predict: one image path; directory (+recursive); video path", 4, "V"),
    Row("C4", _SUPERVISELY, "predict: URL, PIL, ndarray, list of several images", 4, "X"),
    Row("C5", _SUPERVISELY, "predict: local Supervisely project directory", 1, "V"),
    Row("C6", _SUPERVISELY, "predict: project_id", 1, "V"),
    Row("C7", _SUPERVISELY, "predict: dataset_id", 1, "M"),
    Row("C8", _SUPERVISELY, "predict: image_ids single, list", 2, "V"),
    Row("C9", _SUPERVISELY, "arguments settings, batch_size, classes, img_size int", 4, "V"),
    Row("C10", _SUPERVISELY, "argument img_size tuple", 1, "X"),
    Row("C11", _SUPERVISELY, "argument upload", 1, "X"),
    Row("C12", _SUPERVISELY, "upload modes create, append, replace, iou_merge travel on the wire", 4, "V"),
    Row("C13", _SUPERVISELY, "upload modes effect on the platform", 4, "N", "happens on the platform"),
    Row("C14", _SUPERVISELY, "argument recursive", 1, "V"),
    Row(
        "C15",
        _SUPERVISELY,
        "Prediction: annotation, source, project_id, dataset_id, image_id, boxes, masks, scores, classes",
        9,
        "V",
    ),
    Row("C16", _SUPERVISELY, "Prediction: image_path, image_url, image, to_annotation, draw", 5, "X"),
    Row("C17", _SUPERVISELY, "Prediction: load_image()", 1, "V"),
    Row("C18", _SUPERVISELY, "Prediction.frame_idx", 1, "X"),
    Row("C19", _SUPERVISELY, "predict_detached to iterable session; len for tqdm", 2, "V"),
    Row("C20", _SUPERVISELY, "session is_done(), stop(), status()", 3, "V"),
    Row("C21", _SUPERVISELY, "session next(timeout, block)", 1, "X"),
    Row("C22", _SUPERVISELY, "video params stride, start_frame, end_frame, num_frames, duration", 5, "V"),
    Row("C23", _SUPERVISELY, "video_id", 1, "V"),
    Row("C24", _SUPERVISELY, "video_params dict", 1, "X"),
    Row("D1", _HUGGING_FACE, "InferenceClient arguments: model as URL, token, timeout, headers, cookies", 5, "V"),
    Row("D1b", _HUGGING_FACE, "InferenceClient model as hub id; no model (recommended model)", 2, "P"),
    Row("D2", _HUGGING_FACE, "24 tasks, sync", 24, "V", "language, sound, tables, new pictures: for our client"),
    Row(
        "D3",
        _HUGGING_FACE,
        "the same 24, async",
        24,
        "V",
        "language, sound, tables, new pictures: for our client",
    ),
    Row("D4", _HUGGING_FACE, "conversational sync + async", 2, "P", "language models"),
    Row("D5", _HUGGING_FACE, "tabular_regression sync + async", 2, "P", "tables"),
    Row("D6", _HUGGING_FACE, "post (json / data), sync + async", 2, "P"),
    Row("D7", _HUGGING_FACE, "get_model_status sync + async", 2, "P"),
    Row("D8", _HUGGING_FACE, "list_deployed_models sync + async", 2, "P"),
    Row("D9", _HUGGING_FACE, "text_generation: plain, details, stream, stream+details", 4, "V", "language models"),
    Row(
        "D10",
        _HUGGING_FACE,
        "text_generation parameter validation rules",
        9,
        "P",
        "happens inside of the client, without traffic",
    ),
    Row("D11", _HUGGING_FACE, "non-TGI fallback (model_kwargs)", 1, "V", "language models"),
    Row("D12", _HUGGING_FACE, "types", 9, "P", "language models"),
    Row(
        "D13",
        _HUGGING_FACE,
        "types: ClassificationOutput, ImageSegmentationOutput, TokenClassificationOutput",
        3,
        "V",
        "a language task is among them",
    ),
    Row(
        "D14", _HUGGING_FACE, "types: ConversationalOutput, ConversationalOutputConversation", 2, "P", "language models"
    ),
    Row("D15", _HUGGING_FACE, "503 loading loop; timeout to InferenceTimeoutError", 2, "P"),
    Row("D16", _HUGGING_FACE, "HTTPError for other statuses", 1, "V"),
    Row("D17", _HUGGING_FACE, "InferenceApi", 9, "P", "answers that are pictures: no local model makes any"),
    Row("D18", _HUGGING_FACE, "inputs: bytes, path, URL for binary tasks", 3, "V"),
    Row("D19", _HUGGING_FACE, "inputs: file object / BytesIO", 1, "P"),
    Row("D20", _HUGGING_FACE, "hosted Inference API, Endpoints, real models", 2, "N", "needs the internet and keys"),
)
