"""Names that were stored in the code page of another machine are read in it, or the choice is marked as a guess."""

import random

import pytest

from rvc_engine.names.code_pages import CODES, choose, code_page

JAPANESE = "ソフィア ソラ アンナ さくら 田中 花子 声 録音 佐藤健 初音ミク 表情 能登 ユウキ 高橋 台詞 怒り 結月 予告編"
CHINESE = "张三 李四 王芳 刘洋 录音 小明 赵丽颖 第一段 旁白 女声 歌曲 周杰伦 声音素材 训练集 邓紫棋 洛天依 云野 干声"
TAIWANESE = (
    "陳大文 林志玲 王小明 張惠妹 錄音 聲音 第一段 旁白 女聲 周杰倫 蔡依林 歌曲 溫柔 臺詞 語音 張學友 許瑋甯 吳青峰 配音"
)
KOREAN = "김민수 이지은 박서준 최유리 녹음 목소리 아이유 홍길동 김철수 영희 보컬 노래 윤아 지민 한국어 남자 나레이션"
RUSSIAN = "Анна Борис Мария запись голос Иван Ольга диктор Сергей женский Наталья Пётр Щукин Юлия Новая_папка дубль"
WESTERN = (
    "Müller Zoë Hélène Renée Jürgen Björn José François Käthe Größe Stimme_männlich Aufnahme_für Café Noël Weiß Thérèse"
)
CENTRAL = (
    "Łukasz Świętosława Wałęsa Żaneta Paweł nagranie_główne Małgorzata Zbyněk Jiří Šárka Dvořák Hölgy Čapek głos Łódź"
)
GREEK = "Μαρία Γιώργος Ελένη φωνή ηχογράφηση Νίκος Κώστας"
NAMES = {
    "shift-jis": JAPANESE,
    "gbk": CHINESE,
    "big5": TAIWANESE,
    "euc-kr": KOREAN,
    **dict.fromkeys(["cp1251", "cp866", "koi8-r"], RUSSIAN),
    **dict.fromkeys(["cp1252", "cp850", "cp437"], WESTERN),
    **dict.fromkeys(["cp1250", "cp852"], CENTRAL),
    "cp1253": GREEK,
    "cp1255": "שרה דוד משה קול הקלטה רחל",
    "cp1256": "محمد فاطمة علي صوت تسجيل مريم",
    "cp874": "สมชาย มานี เสียง บันทึก สุดา",
}


def outcomes(code: str, num_names: int) -> list[tuple[bool, bool]]:
    """Whether the names came back, and whether the choice is a guess, of draws of so many names."""
    page, draw = code_page(code), random.Random(num_names)
    names = NAMES[code].split()
    found = []
    for _ in range(20):
        chosen = draw.sample(names, num_names)
        raw = [name.encode(page.codec) for name in chosen]
        choice = choose(raw)
        found.append(([choice.decode(name) for name in raw] == chosen, choice.is_guess))
    return found


@pytest.mark.parametrize("code", NAMES)
def test_a_wrong_code_page_is_never_sure(code: str) -> None:
    for num_names in (1, 2, 3):
        assert all(is_right or is_guess for is_right, is_guess in outcomes(code, num_names))


@pytest.mark.parametrize("code", ["shift-jis", "gbk", "big5", "euc-kr", "cp1251", "cp866", "cp1256", "cp874", "cp1253"])
def test_two_short_names_are_enough(code: str) -> None:
    assert [is_right for is_right, _ in outcomes(code, 2)].count(True) >= 19


@pytest.mark.parametrize("code", NAMES)
def test_three_names_are_read_right_nearly_always(code: str) -> None:
    assert [is_right for is_right, _ in outcomes(code, 3)].count(True) >= 16


def test_utf8_without_its_flag_is_read_as_such_and_one_name_that_looks_like_it_is_not() -> None:
    assert choose(["Анна".encode(), "声".encode()]).page.code == "utf-8"
    chosen = ["拢音", "录音", "张三", "李四"]
    raw = [name.encode("gbk") for name in chosen]
    assert raw[0][:2].decode()  # the first letter alone would be valid UTF-8
    choice = choose([*raw, raw[0][:2]])
    assert [choice.decode(name) for name in [*raw, raw[0][:2]]] == [*chosen, "拢"]


def test_a_zip_of_two_programs_has_utf8_beside_a_code_page() -> None:
    raw = ["ソフィアの声".encode("cp932"), "田中花子".encode("cp932"), "春日部つむぎの声".encode()]
    choice = choose(raw)
    assert [choice.decode(name) for name in raw] == ["ソフィアの声", "田中花子", "春日部つむぎの声"]


@pytest.mark.parametrize(
    ("given", "code"), [("GBK", "gbk"), ("cp936", "gbk"), ("gb2312", "gbk"), ("sjis", "shift-jis"), ("cp949", "euc-kr")]
)
def test_code_pages_have_the_names_that_people_know(given: str, code: str) -> None:
    assert code_page(given).code == code


@pytest.mark.parametrize("given", ["", "nonsense", "utf-16", "hex", "gbk\0"])
def test_what_is_no_code_page_is_refused_with_the_list(given: str) -> None:
    with pytest.raises(ValueError, match="use one of shift-jis, gbk"):
        code_page(given)
    assert all(code_page(code).code == code for code in CODES)
