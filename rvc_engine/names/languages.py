"""Costs of characters by language, from which the code page of names is chosen.

The cost of a text is about -ln of its probability: a character by its place in the language's list, a change of scripts
inside a word, letters in odd case. Costs of the same bytes in different code pages are comparable.
"""

import math
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache

IMPOSSIBLE = math.inf
_ASCII_COST = 3.0
_SYMBOL_COST = 14.0
_PUNCTUATION = dict.fromkeys("’‘“”–—…«»„‚·", 7.0) | dict.fromkeys("　、。・ー～（）「」『』【】！？：，〜々〇", 6.0)
_FULL_WIDTH_COST = 10.0
_CAPITAL_COST, _FURTHER_CAPITAL_COST, _CASE_COST = 1.0, 0.5, 4.0
_CONSECUTIVE_ACCENTS_COST = 3.0
_FOREIGN_LETTER_COST = 12.0
_EAST_ASIAN = frozenset(["Han", "Kana", "Hangul"])
_CJK_TO_LATIN_COST, _MIXED_SCRIPTS_COST = 3.0, 8.0

_HAN = (
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经"
    "么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全"
    "三又关点正业外将两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任"
    "常先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活尔更别打女变四神总何电数安少报才结反受目太量再感建务做接必"
    "场件计管期市直德资命山金指克许统区保至队形社便空决治展马科司五基眼书非则听白却界达光放强即像难且权思王象完设式色路记南品住告"
    "类求据程北边死张该交规万取拉格望觉术领共确传师观清今切院让识候带导争运李刘陈杨赵黄周吴徐孙胡朱林郭罗宋郑谢韩唐冯董萧曹袁邓许"
    "傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶余潘杜戴夏钟汪田任姜范石姚谭廖邹熊陆郝孔崔康毛邱秦江史顾侯邵孟龙段雷钱汤尹黎易常武乔贺赖龚文音"
    "频录歌唱片语独旁台词素材干净始集训练未命副六七八九零夹男孩童青少低温柔御姐萝莉"
    "伟芳娜敏静丽磊洋勇艳杰娟涛超霞刚桂英红梅玲华辉婷宇浩轩梓涵晨雨欣怡佳琪雪琳倩莹洁慧颖瑶晓鹏飞峰亮波斌凯旭阳帅志建国玉兰春秀"
)
_HAN_TRADITIONAL = (
    "的一是不了在人有我他這個們中來上大為和國地到以說時要就出會可也你對生能而子那得於著下自之年過發後作裡用道行所然家種事成方多經"
    "麼去法學如都同現當沒動面起看定天分還進好小部其些主樣理心她本前開但因只從想實日軍者意無力它與長把機十民第公此已工使情明性知全"
    "三又關點正業外將兩高間由問很最重並物手應戰向頭文體政美相見被利什二等產或新己制身果加西斯月話合回特代內信表化老給世位次度門任"
    "常先海通教兒原東聲提立及比員解水名真論處走義各入幾口認條平系氣題活爾更別打女變四神總何電數安少報才結反受目太量再感建務做接必"
    "場件計管期市直德資命山金指克許統區保至隊形社便空決治展馬科司五基眼書非則聽白卻界達光放強即像難且權思王象完設式色路記南品住告"
    "陳林黃張李吳劉蔡楊許鄭謝洪郭邱曾廖賴徐周葉蘇莊呂江何蕭羅簡朱鍾施游詹沈彭胡余盧潘顏梁趙柯翁魏孫戴范方宋鄧杜傅侯曹薛丁卓馬溫"
    "音頻錄歌唱片語獨旁台臺詞素材乾淨始集訓練未命副六七八九零夾男孩童青低溫柔檔案資料聲優配"
    "志明淑芬雅婷家豪怡君俊傑美玲惠雯佳穎宗翰冠宇欣承恩建宏麗華秀英玉蘭春花月娥嘉慧偉婉詩涵思妤品妍子晴柏翰彥廷宥廷"
)
_KANJI = (
    "一人日大年出本中子見国言上分生手自行者二間事思時気会十家女三前的方入小地合後目長場代私下立部学物月田彼話体動社知理山内同心発"
    "高実作当新世今書度明五戦力名金性対意用男主通関文屋感郎業定政持道外取所現最化四先民身不口川東相法野村木藤佐鈴橋伊渡辺林加吉井"
    "松清水石原池森岡島中西北南谷島崎和福太橋本美子恵花桜優奈愛菜結衣莉陽斗翔蓮悠真健誠直樹拓也大輔彩香織里沙由紀葵凛咲希音声録歌"
    "素材収編集済元六七八九零百千台詞練習章第回版確認用練素ノ々弟妹姉兄母父先輩後輩少幼老若静動怒喜哀楽通常囁絶叫朗読次郎光雪月星空"
)
_KANA = "".join(map(chr, [*range(0x3041, 0x3094), *range(0x30A1, 0x30F7), 0x30FC, 0x309D, 0x30FD]))
_HANGUL = (
    "이김지민서정수영현은진아미우경희박최하준선연윤도시유성주원나기장강조임한오신권황안송류전홍고문양손배백허남심노곽차구엄채천방공함"
    "변염여추소석설마길위표명반왕금옥인제모탁국어편용예봉사부가복태형두음빈동온호범승상철숙순자혜율후건림라빛누리보람솔별녹목일파데터"
    "래말화대션클립새폴더보컬본의을를에로다는들지그스트드르크프타카바하비니키티디세테레네개재해내래매배무루두투후구쿠루부푸준훈찬환완"
    "란난단산간만반관광창규균근란량렬령록린밀벽별병빈산삼샘소속쇠식실쌍악애약언열엽영완요욱운웅월율읍응익작잔재점정종좌준중찬채척초"
)
_CYRILLIC = "оаенирвтлксмдупйгяьбзычхжшюфцщэёъіїєґў"
_GREEK = "αοιησνεςρτκπμλγδάίόήέθφβχυωύώξζψϊϋΐΰ"
_HEBREW = "ילאוהרנםמשתבדחקעצפסגזטכןךףץ"
_ARABIC = "ايملنرسدوهعبتةحقفكىشجصزضطخغذظثءأإآؤئپچژگ"
_THAI = "านรกอมยลวสทดตบปคพชหจงผขธศณฐภแเไใโำะัิีึืุู็่้์ฉซฝฟฒญฬฮฤ๊๋ๆฯฎฏฌฑฆ"
_KINDS = ("Latin", "Cyrillic", "Greek", "Hebrew", "Arabic", "Thai", "Hangul")


@dataclass(frozen=True)
class Language:
    """The characters of a language that are not ASCII, the common ones first."""

    common: str
    others: tuple[tuple[str, float], ...] = ()
    """Code pages with the cost of the further letters that they hold, the smaller ones first."""
    is_latin: bool = False

    @cached_property
    def costs(self) -> dict[str, float]:
        """Cost of each common character."""
        letters = list(dict.fromkeys(self.common))
        if self.is_latin:
            return {letter: 4.5 + 0.1 * rank for rank, letter in enumerate(letters)}
        start = max(4.0, len(letters) / 30)
        all_ranks = math.log(math.log((len(letters) + start) / start))
        return {letter: math.log(rank + start) + all_ranks for rank, letter in enumerate(letters)}

    def cost(self, text: str) -> float:
        """Cost of a text, in nats; IMPOSSIBLE for characters that no name has."""
        return sum(map(self._letter_cost, text)) + _transition_cost(text)

    def _letter_cost(self, letter: str) -> float:
        if letter.isascii():
            return 2 * _ASCII_COST if letter == "\\" else _ASCII_COST
        if (found := self.costs.get(letter)) is not None:
            return found
        if (found := self.costs.get(letter.lower())) is not None:
            return found
        return _rare_cost(letter, self.others)


@lru_cache(maxsize=1 << 16)
def _rare_cost(letter: str, others: tuple[tuple[str, float], ...]) -> float:
    if unicodedata.category(letter) in {"Cc", "Co", "Cn", "Cs"}:
        return IMPOSSIBLE
    if letter in _PUNCTUATION:
        return _PUNCTUATION[letter]
    if unicodedata.category(letter)[0] not in "LM":
        return _FULL_WIDTH_COST if "\uff01" <= letter <= "\uff5e" else _SYMBOL_COST
    if script(letter) in _EAST_ASIAN:
        for codec, cost in others:
            if _is_in(letter, codec):
                return cost
        return _FOREIGN_LETTER_COST + 4
    return _FOREIGN_LETTER_COST


def _is_in(letter: str, codec: str) -> bool:
    """Whether a code page has a letter; `codec` may end with a range of first bytes: `shift_jis:88-97`."""
    name, _, leads = codec.partition(":")
    try:
        first = letter.encode(name)[0]
    except UnicodeEncodeError:
        return False
    least, _, most = leads.partition("-")
    return not leads or int(least, 16) <= first <= int(most, 16)


def _transition_cost(text: str) -> float:
    """Cost of neighbours that do not occur together: scripts mixed in a word, capitals inside it, runs of accents."""
    cost, before, num_capitals = 0.0, "", 0
    for letter in text:
        if not letter.isalpha():
            before, num_capitals = "", 0
            continue
        if letter.isupper():
            cost += _FURTHER_CAPITAL_COST if num_capitals else _CAPITAL_COST
        if before:
            scripts = {script(before), script(letter)}
            if len(scripts) > 1 and not scripts <= _EAST_ASIAN:
                cost += _CJK_TO_LATIN_COST if scripts - _EAST_ASIAN == {"Latin"} else _MIXED_SCRIPTS_COST
            if letter.isupper() and before.islower():
                cost += _CASE_COST
            if letter.islower() and num_capitals > 1:
                cost += _CASE_COST
            if scripts == {"Latin"} and not before.isascii() and not letter.isascii():
                cost += _CONSECUTIVE_ACCENTS_COST
        num_capitals = num_capitals + 1 if letter.isupper() else 0
        before = letter
    return cost


@lru_cache(maxsize=1 << 16)
def script(letter: str) -> str:
    """The script of a letter: `Latin`, `Cyrillic`, `Han`, `Kana`, ...; `Other`."""
    if letter.isascii():
        return "Latin"
    name = unicodedata.name(letter, "")
    if name.startswith(("CJK", "KANGXI")):
        return "Han"
    if name.startswith(("HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA")):
        return "Kana"
    return next((kind for kind in _KINDS if name.startswith(kind.upper())), "Other")


_LATIN = (
    "äöüß", "éèêàçëïôâîûùœæÿ", "áéíóúñüçãõâêôà", "àèéìòùí", "åäöæøéó", "łąęśżóćńź", "áíéěýšžčřůúťďňóľĺŕäô",
    "áéíóöőúüű", "ăâîșțşţ", "çğıİöşüâî", "čšžđćëç", "āēīūčģķļņšžąęėįųõ",
)  # fmt: skip
LATIN_LANGUAGES = tuple(Language(letters, is_latin=True) for letters in _LATIN)
SIMPLIFIED = Language(
    _HAN, (("gb2312:b0-d7", 9.8), ("gb2312:a4-a5", 6.0), ("gb2312:d8-f7", 12.0), ("gbk", 14.0), ("gb18030", 16.0))
)
TRADITIONAL = Language(_HAN_TRADITIONAL, (("big5:a4-c6", 9.8), ("big5:c9-f9", 12.5), ("cp950", 14.0)))
JAPANESE = Language(
    _KANA + _KANJI, (("shift_jis:88-97", 9.3), ("shift_jis:a1-df", 7.0), ("shift_jis:98-ea", 12.0), ("cp932", 13.0))
)
KOREAN = Language(_HANGUL, (("euc_kr:b0-c8", 10.0), ("euc_kr:ca-fd", 12.5), ("cp949", 14.0)))
CYRILLIC, GREEK, HEBREW = Language(_CYRILLIC), Language(_GREEK), Language(_HEBREW)
ARABIC, THAI = Language(_ARABIC), Language(_THAI)
LANGUAGES = (
    *(*LATIN_LANGUAGES, SIMPLIFIED, TRADITIONAL, JAPANESE, KOREAN),
    *(CYRILLIC, GREEK, HEBREW, ARABIC, THAI),
)


def least_cost(text: str, languages: Iterable[Language]) -> float:
    """Cost of a text in the language that it fits best."""
    return min(language.cost(text) for language in languages)
