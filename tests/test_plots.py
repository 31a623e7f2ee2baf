"""Pictures: a cell is drawn where its axes say, levels share their colours, bytes are a PNG."""

from __future__ import annotations

import io
import re
from itertools import pairwise

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from audiointerp.masking import apply_mask, make_masks
from audiointerp.plots import (
    DYNAMIC_RANGE,
    Picture,
    draw_cells,
    plot_attributions,
    plot_comparison,
    plot_interpretation,
    plot_learning_curves,
    plot_masks,
    plot_probabilities,
    plot_spectrogram,
    share_in_words,
)
from audiointerp.processing import (
    FRONT_ENDS,
    LogMelSTFTSpectrogram,
    LogSTFTSpectrogram,
    STFTSpectrogram,
)

FRAMES = 101
PROCESSORS = [LogMelSTFTSpectrogram(), LogSTFTSpectrogram()]


def pixels(picture: Picture) -> np.ndarray:
    """Return the picture as it is rendered: (height, width, 3), the first row at the top."""
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png", dpi=picture.dpi)
    buffer.seek(0)
    return matplotlib.image.imread(buffer)[..., :3]


def hertz(label: str) -> float:
    return 1000 * float(label[:-1]) if label.endswith("k") else float(label)


def ticks_in_pixels(axis, horizontal: bool) -> tuple[list[float], list[float]]:
    """Return the numbers at an axis's ticks and where they are, pixels from the left or bottom."""
    places = axis.get_ticklocs()
    points = [(place, 0) if horizontal else (0, place) for place in places]
    drawn = [axis.axes.transData.transform(point)[0 if horizontal else 1] for point in points]
    numbers = [hertz(label.get_text()) for label in axis.get_ticklabels()]
    assert len(numbers) == len(drawn) > 2
    return numbers, drawn


def drawn_place(picture: Picture) -> tuple[float, float]:
    """Return the centre of the red pixels, from the left and from the bottom."""
    image = pixels(picture)
    red = (image[..., 0] > 0.9) & (image[..., 1] < 0.1)
    rows, columns = np.nonzero(red)
    assert len(rows) > 0
    return columns.mean() + 0.5, image.shape[0] - rows.mean() - 0.5


def draw_impulse(processor, band: int, frame: int) -> tuple[Picture, object]:
    cells = torch.zeros(processor.num_bins, FRAMES)
    cells[band, frame] = 1
    picture = Picture(figsize=(9, 7), layout="constrained")
    axes = picture.add_subplot()
    draw_cells(axes, cells, processor, cmap=matplotlib.colors.ListedColormap(["black", "red"]))
    return picture, axes


@pytest.mark.parametrize("processor", PROCESSORS, ids=["mel", "stft"])
@pytest.mark.parametrize("hz", [500, 1000, 2000, 4000])
@pytest.mark.parametrize("second", [0.2, 0.8])
def test_an_impulse_is_drawn_where_the_ticks_say(processor, hz, second):
    band = int((processor.frequencies - hz).abs().argmin())
    frame = int((processor.times(FRAMES) - second).abs().argmin())
    picture, axes = draw_impulse(processor, band, frame)
    x, y = drawn_place(picture)
    box = axes.get_window_extent()
    cell_width, cell_height = box.width / FRAMES, box.height / processor.num_bins

    seconds, columns = ticks_in_pixels(axes.xaxis, horizontal=True)
    expected = np.interp(processor.times(FRAMES)[frame], seconds, columns)
    assert abs(x - expected) < 0.5 * cell_width + 1

    numbers, rows = ticks_in_pixels(axes.yaxis, horizontal=False)
    if processor.num_bins == 64:  # warped: compare at a tick, not between two
        expected = dict(zip(numbers, rows, strict=True))[hz]
        assert abs(y - expected) < 0.5 * cell_height + 1
    else:
        order = np.argsort(numbers)
        row = np.interp(
            processor.frequencies[band], np.array(numbers)[order], np.array(rows)[order]
        )
        assert abs(y - row) < 1.5


@pytest.mark.parametrize("processor", PROCESSORS, ids=["mel", "stft"])
def test_low_is_below_and_early_is_left(processor):
    low_early = drawn_place(draw_impulse(processor, 2, 3)[0])
    high_late = drawn_place(draw_impulse(processor, processor.num_bins - 3, 90)[0])
    assert low_early[0] < high_late[0]
    assert low_early[1] < high_late[1]


@pytest.mark.parametrize("front_end", FRONT_ENDS.values())
def test_labels_do_not_run_into_each_other(front_end):
    for figsize in ((7, 3), (3.4, 2.2)):
        picture = Picture(figsize=figsize, layout="constrained")
        axes = picture.add_subplot()
        draw_cells(axes, torch.zeros(front_end().num_bins, 313), front_end())
        picture.savefig(io.BytesIO(), format="png")
        for axis, side in ((axes.yaxis, "y"), (axes.xaxis, "x")):
            boxes = [label.get_window_extent() for label in axis.get_ticklabels()]
            spans = sorted((getattr(box, f"{side}0"), getattr(box, f"{side}1")) for box in boxes)
            # Boxes have room above and below the digits; a third of it may be shared.
            for (low, high), (following, _) in pairwise(spans):
                assert following >= high - (high - low) / 3


def clip(processor, batch: int = 1) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    features = processor(0.1 * torch.randn(batch, 1, 16000, generator=generator))
    attribution = torch.randn(features.shape, generator=generator)
    mask = make_masks(attribution, "topK_30")["topK_30"]
    return features, attribution, mask, *apply_mask(features, mask, processor.floor)


@pytest.mark.parametrize("front_end", FRONT_ENDS.values())
def test_the_three_spectrograms_share_their_colours_and_the_map_is_symmetric(front_end):
    processor = front_end()
    parts = clip(processor)
    picture = plot_interpretation(*parts, processor, heading="clip", titles={"mask": "my mask"})
    images = {axes.get_title(): axes.images[0] for axes in picture.axes if axes.images}
    peak = float(parts[0].max()) if processor.log else float(10 * parts[0].max().log10())
    for title in ("original", "kept by the mask", "removed from the clip"):
        assert images[title].get_clim() == pytest.approx((peak - DYNAMIC_RANGE, peak))
    limit = float(parts[1].abs().max())
    assert images["attribution"].get_clim() == pytest.approx((-limit, limit))
    assert images["my mask"].get_clim() == (0, 1)
    for title, cells in zip(("attribution", "my mask"), parts[1:3], strict=True):
        np.testing.assert_array_equal(images[title].get_array(), cells[0, 0])


def test_power_is_drawn_in_decibels():
    processor = STFTSpectrogram()
    features = clip(processor)[0]
    image = plot_spectrogram(features, processor, title="power").axes[0].images[0]
    np.testing.assert_allclose(image.get_array(), 10 * features[0, 0].log10(), rtol=1e-5)


def test_an_empty_map_is_drawn_too():
    processor = LogSTFTSpectrogram()
    features, attribution, mask, inside, outside = clip(processor)
    picture = plot_interpretation(features, 0 * attribution, mask, inside, outside, processor)
    assert picture.axes[1].images[0].get_clim() == (-1, 1)


def test_every_mask_is_drawn_under_its_name():
    processor = LogMelSTFTSpectrogram()
    masks = make_masks(clip(processor)[1])
    picture = plot_masks(masks, processor, heading="clip")
    (axes,) = picture.axes
    titles = {text.get_text().split(":")[0]: text for text in axes.texts}
    assert "topK_30: 30 % kept" in {text.get_text() for text in axes.texts}
    corners = []
    for image, (name, mask) in zip(axes.images, masks.items(), strict=True):
        np.testing.assert_array_equal(image.get_array(), mask[0, 0])
        assert image.get_clim() == (0, 1)
        left, right, bottom, top = image.get_extent()
        corners.append((left, -top))
        x, y = titles[name].get_position()
        assert left < x < right
        assert top < y < top + 0.1 * (top - bottom)
    assert corners == sorted(corners, key=lambda corner: corner[::-1])  # row by row
    lows = {image.get_extent()[2] for image in axes.images}
    hertz_labels = [label.get_text() for label in axes.get_yticklabels()]
    assert len(lows) == 4
    assert hertz_labels == hertz_labels[: len(hertz_labels) // 4] * 4
    assert sum(text.get_text() == "time, s" for text in axes.texts) == 4
    with pytest.raises(ValueError, match="no masks"):
        plot_masks({}, processor)


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0, "0 %"),
        (1e-5, "under 1 %"),
        (0.006, "1 %"),
        (0.3, "30 %"),
        (0.999, "over 99 %"),
        (1, "100 %"),
    ],
)
def test_a_share_is_told_apart_from_none_and_all(share, words):
    assert share_in_words(share) == words


@pytest.mark.parametrize("processor", PROCESSORS, ids=lambda p: type(p).__name__)
def test_a_cell_of_a_mask_is_drawn_where_the_labels_say(processor):
    band, frame = processor.num_bins // 3, 70
    blank = torch.zeros(processor.num_bins, FRAMES)
    marked = blank.clone()
    marked[band, frame] = 1
    picture = plot_masks({f"mask{n}": marked if n == 5 else blank for n in range(7)}, processor)
    picture.set_dpi(200)
    picture.draw_without_rendering()
    (axes,) = picture.axes
    left, right, bottom, top = axes.images[5].get_extent()
    cells = axes.images[5].get_array()
    assert cells[band, frame] == 1
    assert cells.sum() == 1
    height = bottom + (band + 0.5) / processor.num_bins * (top - bottom)
    places = axes.get_yticks()
    numbers = [hertz(label.get_text()) for label in axes.get_yticklabels()]
    inside = [(p, n) for p, n in zip(places, numbers, strict=True) if bottom < p < top]
    expected = np.interp(height, *zip(*sorted(inside), strict=True))
    assert expected == pytest.approx(float(processor.frequencies[band]), rel=0.15)
    seconds = {
        float(text.get_text()): text.get_position()[0]
        for text in axes.texts
        if text.get_text().replace(".", "").isdigit() and left <= text.get_position()[0] <= right
    }
    across = left + (frame + 0.5) / FRAMES * (right - left)
    second = np.interp(across, sorted(seconds.values()), sorted(seconds))
    assert second == pytest.approx(float(processor.times(FRAMES)[frame]), abs=0.02)


METHODS = ("saliency", "gradcam", "lime", "shap")


def sheet(processor, masks=("topK_5", "topK_30", "minmax_pos"), **options) -> Picture:
    """Return the figure of four methods with random maps, on one clip."""
    features = clip(processor)[0]
    generator = torch.Generator().manual_seed(1)
    maps = {name: torch.randn(features.shape, generator=generator) for name in METHODS}
    masked = {
        name: {
            mask: apply_mask(features, cells, processor.floor)[0]
            for mask, cells in make_masks(attribution, list(masks)).items()
        }
        for name, attribution in maps.items()
    }
    return plot_comparison(features, maps, masked, processor, **options)


def panels(picture: Picture) -> list[list]:
    """Return the images of a sheet as rows, from the top; the colour scales below them not."""
    (axes,) = picture.axes
    rows: dict[float, list] = {}
    for image in axes.images[:-2]:
        rows.setdefault(image.get_extent()[3], []).append(image)
    assert list(rows) == sorted(rows, reverse=True)
    return list(rows.values())


@pytest.mark.parametrize("front_end", FRONT_ENDS.values())
def test_rows_are_methods_and_columns_the_clip_its_map_and_what_masks_keep(front_end):
    processor = front_end()
    features = clip(processor)[0]
    level = features if processor.log else 10 * features.clamp(min=1e-10).log10()
    peak = float(level.max())
    generator = torch.Generator().manual_seed(1)
    rows = panels(sheet(processor))
    assert [len(row) for row in rows] == [5] * 4
    names = ["topK_5", "topK_30", "minmax_pos"]
    for original, effect, *masked in rows:
        np.testing.assert_allclose(original.get_array(), level[0, 0], rtol=1e-5)
        attribution = torch.randn(features.shape, generator=generator)
        np.testing.assert_array_equal(effect.get_array(), attribution[0, 0])
        limit = np.percentile(np.abs(attribution.numpy()), 99)
        assert effect.get_clim() == pytest.approx((-limit, limit))
        for image, mask in zip(masked, names, strict=True):
            cells = make_masks(attribution, mask)[mask]
            kept = apply_mask(features, cells, processor.floor)[0][0, 0]
            kept = kept if processor.log else 10 * kept.clamp(min=1e-10).log10()
            np.testing.assert_allclose(image.get_array(), kept, rtol=1e-5, err_msg=mask)
        for image in (original, *masked):
            assert image.get_clim() == pytest.approx((peak - DYNAMIC_RANGE, peak))
            assert image.get_cmap().name == original.get_cmap().name


def test_names_numbers_and_units_are_on_the_outer_panels_only():
    captions = {name: {"topK_5": f"p of {name}"} for name in METHODS}
    picture = sheet(LogMelSTFTSpectrogram(), captions=captions, heading="my clip")
    (axes,) = picture.axes
    texts = [text.get_text() for text in axes.texts]
    rows = panels(picture)
    for name in ("original", "attribution", "topK_5", "topK_30", "minmax_pos", "my clip", *METHODS):
        assert texts.count(name) == 1
    assert texts.count("Hz") == 4
    assert texts.count("1k") == 4
    assert texts.count("time, s") == 5
    for place, (row, name) in enumerate(zip(rows, METHODS, strict=True)):
        left, right, bottom, top = row[2].get_extent()
        (x, y) = next(t.get_position() for t in axes.texts if t.get_text() == f"p of {name}")
        assert left < x < right
        assert top < y < (rows[place - 1][0].get_extent()[2] if place else top + 0.2)
        (x, y) = next(t.get_position() for t in axes.texts if t.get_text() == name)
        assert bottom < y < top
        assert x < row[0].get_extent()[0]


@pytest.mark.parametrize("processor", PROCESSORS, ids=["mel", "stft"])
@pytest.mark.parametrize("masks", [(), ("bin",), tuple(make_masks(torch.randn(1, 1, 2, 2)))[:6]])
def test_a_figure_fits_its_page_and_its_letters_can_be_read(processor, masks):
    captions = {name: dict.fromkeys(masks, "p = 0.99") for name in METHODS}
    picture = sheet(processor, masks, captions=captions, heading="clip: class, p = 0.99")
    picture.draw_without_rendering()
    (axes,) = picture.axes
    assert picture.get_figwidth() == 7
    assert picture.get_figheight() < 8
    page = picture.bbox
    shown = [text for text in axes.texts if text.get_text()]
    boxes = [text.get_window_extent() for text in shown]
    for text, box in zip(shown, boxes, strict=True):
        assert text.get_fontsize() >= 6
        assert page.x0 <= box.x0 < box.x1 <= page.x1
        assert page.y0 <= box.y0 < box.y1 <= page.y1
    # Boxes have room above and below the letters; a third of it may be shared.
    for place, (text, one) in enumerate(zip(shown, boxes, strict=True)):
        for other_text, other in zip(shown[place + 1 :], boxes[place + 1 :], strict=True):
            across = min(one.x1, other.x1) - max(one.x0, other.x0)
            up = min(one.y1, other.y1) - max(one.y0, other.y0)
            low = min(one.height, other.height) / 3
            assert across <= 0 or up <= low, (text.get_text(), other_text.get_text())
    for row in panels(picture):
        for image in row:
            extent = axes.transData.transform(np.reshape(image.get_extent(), (2, 2)).T)
            for box in boxes:
                across = min(extent[1, 0], box.x1) - max(extent[0, 0], box.x0)
                assert across <= 0 or min(extent[1, 1], box.y1) - max(extent[0, 1], box.y0) < 2


@pytest.mark.parametrize("processor", PROCESSORS, ids=["mel", "stft"])
def test_a_cell_of_a_figure_is_drawn_where_the_numbers_say(processor):
    band, frame = processor.num_bins // 3, 70
    cells = torch.zeros(processor.num_bins, FRAMES)
    cells[band, frame] = 1
    picture = plot_attributions(cells, {"map": cells}, processor)
    (axes,) = picture.axes
    left, right, bottom, top = panels(picture)[0][1].get_extent()
    height = bottom + (band + 0.5) / processor.num_bins * (top - bottom)
    across = left + (frame + 0.5) / FRAMES * (right - left)
    lines = [line.get_xydata() for line in axes.lines]
    rows = sorted(y for (x, y), (other, same) in lines if y == same and x != other)
    columns = sorted(x for (x, y), (same, other) in lines if x == same and left <= x <= right)
    named = [(t.get_position(), t.get_text()) for t in axes.texts if t.get_text()]
    hertz_at = {y: hertz(name) for (_, y), name in named if y in rows and name != "Hz"}
    assert len(hertz_at) == len(rows) > 2
    expected = np.interp(height, rows, [hertz_at[row] for row in rows])
    assert expected == pytest.approx(float(processor.frequencies[band]), rel=0.15)
    below = [name for (x, y), name in named if left < x < right and bottom - 0.1 < y < bottom]
    seconds = [float(name) for name in below]
    assert len(columns) == len(seconds) > 2
    second = np.interp(across, columns, seconds)
    assert second == pytest.approx(float(processor.times(FRAMES)[frame]), abs=0.02)


def test_maps_of_many_methods_are_wrapped_and_every_column_has_its_seconds():
    processor = LogMelSTFTSpectrogram()
    features, attribution, *_ = clip(processor)
    maps = {f"m{n}": n * attribution for n in range(1, 12)}
    picture = plot_attributions(features, maps, processor)
    rows = panels(picture)
    assert [len(row) for row in rows] == [6, 6]
    texts = [text.get_text() for text in picture.axes[0].texts]
    assert texts.count("time, s") == 6
    assert {"original", *maps} <= set(texts)
    np.testing.assert_array_equal(rows[1][0].get_array(), 6 * attribution[0, 0])
    short = panels(plot_attributions(features, {f"m{n}": attribution for n in range(8)}, processor))
    assert [len(row) for row in short] == [5, 4]


def test_a_map_of_one_cell_is_seen_and_an_empty_one_is_blank():
    processor = LogMelSTFTSpectrogram()
    features = clip(processor)[0]
    one = torch.zeros_like(features)
    one[..., 3, 4] = -0.2
    images = panels(plot_attributions(features, {"one": one, "none": 0 * one}, processor))[0]
    assert images[1].get_clim() == pytest.approx((-0.2, 0.2))
    assert images[2].get_clim() == (-1, 1)


def test_a_print_is_sharp_has_text_and_is_the_same_every_time(tmp_path):
    processor = LogMelSTFTSpectrogram()
    picture = sheet(processor, ("topK_5",), heading="clip")
    pdf, png = picture.save_print(tmp_path / "new" / "figure")
    assert (pdf.name, png.name) == ("figure.pdf", "figure.png")
    with Image.open(png) as image:
        assert image.width == 2100
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF")
    assert b"/FontFile2" in content  # TrueType, embedded
    assert b"/Type3" not in content
    # A panel of 64 bands on 600 dpi: cells are larger than the pixels that draw them.
    widths = [int(found) for found in re.findall(rb"/Width (\d+)", content)]
    assert sum(width > 4 * 101 for width in widths) >= 12
    again = picture.save_print(tmp_path / "again")
    assert [path.read_bytes() for path in again] == [content, png.read_bytes()]


def test_a_print_drops_no_frame(tmp_path):
    processor = LogMelSTFTSpectrogram()
    frames = 501
    features = torch.full((processor.num_bins, frames), -80.0)
    names = [f"m{n}" for n in range(8)]
    masked = {}
    for place, name in enumerate(names):
        masked[name] = {mask: features.clone() for mask in ("a", "b", "c", "d")}
        for column, cells in enumerate(masked[name].values()):
            cells[:, 200 + 4 * place + column] = 0
    features[0, 0] = 0
    picture = plot_comparison(features, dict.fromkeys(names, features), masked, processor)
    _, png = picture.save_print(tmp_path / "figure")
    image = np.asarray(Image.open(png).convert("L"), float)
    scale = len(image) / picture.get_figheight()
    for row in panels(picture):
        for panel in row[2:]:
            left, right, bottom, top = (scale * edge for edge in panel.get_extent())
            line = image[round(len(image) - (bottom + top) / 2), round(left) + 4 : round(right) - 4]
            assert line.max() > 100  # some pixel is far from black


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attributions": {}, "masked": {}}, "of no method, masked spectrograms of no method"),
        ({"masked": {"b": {}}}, "attribution maps of a, b, masked spectrograms of b"),
        ({"masked": {"a": {"bin": 0}, "b": {"topK_5": 0}}}, "b has the masks topK_5, not bin"),
        ({"masked": {"a": dict.fromkeys("1234567", 0), "b": {}}}, "7 masks are too many"),
    ],
)
def test_a_figure_of_unequal_methods_is_refused(change, message):
    processor = LogMelSTFTSpectrogram()
    features = clip(processor)[0]
    request = {"attributions": {"a": features, "b": features}, "masked": {"a": {}, "b": {}}}
    with pytest.raises(ValueError, match=message):
        plot_comparison(features, **(request | change), processor=processor)
    with pytest.raises(ValueError, match="no attribution maps"):
        plot_attributions(features, {}, processor)


def test_learning_curves():
    history = pd.DataFrame(
        {
            "epoch": [1, 2, 3],
            "train_loss": [2.0, 1.0, 0.5],
            "train_accuracy": [0.3, 0.6, 0.9],
            "val_loss": [2.1, 1.2, 1.3],
            "val_accuracy": [0.2, 0.7, 0.65],
            "learning_rate": [1e-3, 1e-3, 1e-4],
        }
    )
    loss, accuracy = plot_learning_curves(history, best_epoch=2).axes
    curves = {line.get_label(): line.get_xydata().tolist() for line in accuracy.lines}
    assert curves["train"] == [[1, 0.3], [2, 0.6], [3, 0.9]]
    assert curves["validation"] == [[1, 0.2], [2, 0.7], [3, 0.65]]
    assert [x for x, _ in curves["kept: 2"]] == [2, 2]
    assert [line.get_label() for line in loss.lines] == ["train", "validation", "kept: 2"]
    assert all(tick == int(tick) for tick in loss.get_xticks())


def test_learning_curves_show_the_scores_there_are():
    history = pd.DataFrame({"epoch": [1, 2], "train_loss": [2.0, 1.0], "val_map": [0.3, 0.4]})
    loss, score = plot_learning_curves(history).axes
    assert (loss.get_ylabel(), score.get_ylabel()) == ("loss", "mAP")
    assert score.lines[0].get_xydata().tolist() == [[1, 0.3], [2, 0.4]]
    every = history.assign(train_accuracy=0.5)
    quantities = [axes.get_ylabel() for axes in plot_learning_curves(every).axes]
    assert quantities == ["loss", "accuracy", "mAP"]
    with pytest.raises(ValueError, match="has the columns epoch: expected some that end in _loss"):
        plot_learning_curves(history[["epoch"]])


def test_a_picture_is_a_png_and_leaves_no_global_state():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    processor = LogMelSTFTSpectrogram()
    data = plot_spectrogram(clip(processor)[0], processor)._repr_png_()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    image = matplotlib.image.imread(io.BytesIO(data))
    assert image.shape == (270, 630, 4)
    assert image[..., :3].std() > 0.1
    assert plt.get_fignums() == before


def test_cells_that_do_not_fit_are_refused():
    processor = LogMelSTFTSpectrogram()
    features = clip(processor, batch=2)[0]
    with pytest.raises(ValueError, match="one clip; index the batch"):
        plot_spectrogram(features, processor)
    with pytest.raises(ValueError, match="transposed"):
        plot_spectrogram(features[:1].transpose(2, 3), processor)
    with pytest.raises(ValueError, match="are they another front end's"):
        plot_spectrogram(features[:1], LogSTFTSpectrogram())
    with pytest.raises(ValueError, match="one clip"):
        plot_spectrogram(features[0, 0, 0], processor)


def test_a_picture_for_the_screen_has_fewer_colours_and_the_same_picture(tmp_path):
    processor = LogMelSTFTSpectrogram()
    picture = plot_interpretation(*clip(processor), processor, heading="clip")
    file = picture.save_screen(tmp_path / "small.png", dpi=100)
    picture.savefig(tmp_path / "full.png", dpi=100)
    small, full = (Image.open(tmp_path / f"{name}.png") for name in ("small", "full"))
    assert small.mode == "P"
    assert file.stat().st_size < (tmp_path / "full.png").stat().st_size / 2
    difference = np.asarray(small.convert("RGB"), int) - np.asarray(full.convert("RGB"), int)
    assert np.quantile(np.abs(difference), 0.999) < 15  # edges between two colour maps differ more
    assert np.abs(difference).mean() < 1
    corners = np.asarray(small.convert("RGB"))[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 255).all()
    assert Image.open(io.BytesIO(picture._repr_png_())).size == (1170, 504)


def test_probabilities_are_written_and_shaded_in_place():
    index = pd.MultiIndex.from_tuples([("", "whole clip"), ("lime", "kept")])
    chances = pd.DataFrame(
        [[0.1, 0.7, 0.15, 0.05], [0.0, 0.2, 0.79, 0.01]], index, ["dog", "cat", "sneezing", "rain"]
    )
    picture = plot_probabilities(chances, heading="clip", most=3)
    picture.draw_without_rendering()
    (axes,) = picture.axes
    np.testing.assert_array_equal(axes.images[0].get_array(), chances.iloc[:, :3])
    assert axes.images[0].get_clim() == (0, 1)
    written = {text.get_position(): text.get_text() for text in axes.texts}
    assert written == {
        (column, row): f"{chances.iloc[row, column]:.2f}" for row in range(2) for column in range(3)
    }
    assert [label.get_text() for label in axes.get_yticklabels()] == ["whole clip", "lime kept"]
    names = axes.get_xticklabels()
    assert [label.get_text() for label in names] == ["dog", "cat", "sneezing"]
    for label in (*names, *axes.get_yticklabels()):
        box = label.get_window_extent()
        assert picture.bbox.x0 <= box.x0 < box.x1 <= picture.bbox.x1
        assert picture.bbox.y0 <= box.y0 < box.y1 <= picture.bbox.y1
    for wrong in (chances.iloc[:0], 100 * chances, chances - 0.1):
        with pytest.raises(ValueError, match="expected rows of probabilities"):
            plot_probabilities(wrong)


@pytest.mark.parametrize(
    ("name", "stem"),
    [("fig", "fig"), ("fig.pdf", "fig"), ("fig.PNG", "fig"), ("v1.2", "v1.2"), ("a.b.png", "a.b")],
)
def test_a_figure_for_print_has_one_ending(tmp_path, name, stem):
    files = Picture(figsize=(1, 1)).save_print(tmp_path / "new" / name)
    assert [path.name for path in files] == [f"{stem}.pdf", f"{stem}.png"]
    assert all(path.is_file() for path in files)
