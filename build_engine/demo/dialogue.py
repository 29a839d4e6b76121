"""What customers ask and what the assistant answers, in Chinese and English.

Knows the twelve faults and the wording; knows nothing about pixels, tokens or weights. Every answer carries the
parts that decide whether it is right (`Answer.keys`), so that training can weigh them and evaluation can look for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal

Language = Literal["zh", "en"]
LANGUAGES: tuple[Language, Language] = ("zh", "en")


@dataclass(frozen=True)
class Fault:
    """One kind of screen: its names, advice, and the words customers use for it."""

    key: str
    name: dict[Language, str]
    advice: dict[Language, str]
    symptoms: dict[Language, tuple[str, ...]]
    hardware: bool = False
    repair: bool = False


@dataclass(frozen=True)
class Answer:
    """An answer and the substrings of it that must be right."""

    text: str
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Turn:
    """One question with its answer; `pictures` are indexes of the images (or -1 for the clip) shown with it."""

    question: str
    answer: Answer
    pictures: tuple[int, ...] = field(default=())


def _fault(
    key: str,
    zh: str,
    en: str,
    advice_zh: str,
    advice_en: str,
    symptoms_zh: str,
    symptoms_en: str,
    hardware: bool = False,
    repair: bool = False,
) -> Fault:
    return Fault(
        key,
        {"zh": zh, "en": en},
        {"zh": advice_zh, "en": advice_en},
        {"zh": tuple(symptoms_zh.split("|")), "en": tuple(symptoms_en.split("|"))},
        hardware,
        repair,
    )


FAULTS: dict[str, Fault] = {
    f.key: f
    for f in (
        _fault(
            "black",
            "黑屏",
            "black screen",
            "可能原因：电量耗尽、系统死机或屏幕损坏。建议：长按电源键十秒强制重启，充电半小时，仍不亮请联系售后。",
            "Likely causes: empty battery, system crash or a broken display. "
            "Steps: hold the power key for ten seconds, charge for half an hour, then contact after-sales service.",
            "手机打不开|开不了机|屏幕不亮|手机黑屏了|按电源键没反应|电脑打不开|屏幕一片黑",
            "my phone does not turn on|the screen stays dark|my laptop will not start|nothing happens when I press power",
            True,
            True,
        ),
        _fault(
            "crack",
            "屏幕碎裂",
            "cracked screen",
            "可能原因：跌落或挤压。建议：备份数据，不要按压屏幕，联系售后更换屏幕。",
            "Likely causes: a drop or pressure. Steps: back up your data, do not press the glass, have the display replaced.",
            "手机摔了|屏幕裂了|屏幕碎了|玻璃坏了",
            "I dropped my phone|the glass is broken|my screen has cracks",
            True,
            True,
        ),
        _fault(
            "crash",
            "应用崩溃",
            "app crash",
            "可能原因：版本不兼容或缓存损坏。建议：清除缓存，更新应用，重启后再试，并把错误代码告诉客服。",
            "Likely causes: an old version or a damaged cache. "
            "Steps: clear the cache, update the app, restart, and tell support the code.",
            "应用闪退|软件打不开|弹出错误窗口|程序崩溃了|一直报错",
            "the app keeps closing|an error window pops up|the program crashed|I get an error code",
        ),
        _fault(
            "battery",
            "电量过低",
            "low battery",
            "可能原因：长时间未充电或电池老化。建议：用原装充电器充电，若掉电很快请检测电池。",
            "Likely causes: not charged for long or an aged battery. "
            "Steps: charge with the original charger; if it drains fast, have the battery tested.",
            "手机快没电了|充不进电|掉电很快|提示电量不足",
            "my battery is low|it does not charge|the battery drains fast",
        ),
        _fault(
            "network",
            "无网络连接",
            "no network",
            "可能原因：无线网络关闭或路由器故障。建议：打开无线网络，重启路由器，检查飞行模式。",
            "Likely causes: wireless is off or the router failed. "
            "Steps: turn on wireless, restart the router, check airplane mode.",
            "上不了网|连不上网络|网页打不开|没有信号",
            "I cannot get online|the internet does not work|there is no signal",
        ),
        _fault(
            "storage",
            "存储空间已满",
            "storage full",
            "可能原因：照片、视频和缓存过多。建议：删除不用的文件，清理缓存，把照片移到云盘。",
            "Likely causes: too many photos, videos and caches. "
            "Steps: delete unused files, clean the cache, move photos to the cloud.",
            "内存不足|存不了照片|空间满了|装不了新应用",
            "I cannot save photos|there is no space left|I cannot install new apps",
        ),
        _fault(
            "spinner",
            "加载卡死",
            "frozen loading",
            "可能原因：服务器响应慢或程序无响应。建议：等待一分钟，关闭程序重新打开，再检查网络。",
            "Likely causes: a slow server or a hung program. "
            "Steps: wait one minute, close and reopen the program, then check the network.",
            "一直在转圈|卡住不动了|加载不出来|死机了",
            "it keeps loading|it is stuck|the circle keeps spinning",
        ),
        _fault(
            "login",
            "登录失败",
            "login failure",
            "可能原因：密码错误或账号被锁定。建议：核对账号和大小写，重置密码，稍后再登录。",
            "Likely causes: a wrong password or a locked account. "
            "Steps: check the account and capitals, reset the password, sign in later.",
            "登录不上|账号进不去|密码不对|无法登录账号",
            "I cannot sign in|my password is refused|I cannot log in",
        ),
        _fault(
            "bluescreen",
            "蓝屏",
            "blue screen",
            "可能原因：驱动冲突或内存故障。建议：重启电脑，在安全模式卸载新驱动，再检测内存。",
            "Likely causes: a driver conflict or faulty memory. "
            "Steps: restart, remove new drivers in safe mode, then test the memory.",
            "电脑蓝了|突然重启了|出现哭脸|系统出错了",
            "my computer shows a sad face|it restarts by itself|the system stopped",
            True,
            True,
        ),
        _fault(
            "heat",
            "设备过热",
            "overheating",
            "可能原因：长时间高负载或散热口堵塞。建议：停止使用，移到阴凉处，取下保护壳，冷却后再开机。",
            "Likely causes: long heavy load or blocked vents. "
            "Steps: stop using it, move it to a cool place, take off the case and let it cool down.",
            "手机很烫|温度太高|发热严重|电脑太热了",
            "my phone is very hot|it gets too warm|the device burns my hand",
            True,
        ),
        _fault(
            "update",
            "更新失败",
            "update failed",
            "可能原因：安装包损坏或空间不足。建议：连接稳定网络，释放空间，重新下载更新包。",
            "Likely causes: a damaged package or too little space. "
            "Steps: use a stable network, free some space, download the update again.",
            "升级不了|更新到一半停了|系统更新不了|安装失败",
            "the update does not finish|I cannot upgrade|the installation stopped",
        ),
        _fault(
            "normal",
            "画面正常",
            "normal screen",
            "没有发现故障。如仍有问题，请描述现象或重新拍一张清晰的照片。",
            "No fault was found. If a problem remains, describe it or take another clear picture.",
            "看看有没有问题|手机有点奇怪|帮我检查一下",
            "please check my phone|is anything wrong|my device acts strangely",
        ),
    )
}
KINDS: tuple[str, ...] = tuple(FAULTS)

ORDINALS: dict[Language, tuple[str, str]] = {"zh": ("第一张", "第二张"), "en": ("first", "second")}

DIAGNOSE: dict[Language, tuple[str, ...]] = {
    "zh": (
        "这是什么问题？",
        "设备出了什么故障？",
        "请帮我看看这张图哪里不对。",
        "屏幕上是什么故障？怎么解决？",
        "我的设备怎么了？",
        "图里是什么情况，该怎么办？",
        "帮忙诊断一下这张截图。",
        "出现这个画面怎么处理？",
        "怎么办？",
        "请问怎么解决？",
        "这是怎么回事？",
        "我该怎么修？",
    ),
    "en": (
        "What is wrong?",
        "What is the problem with my device?",
        "Please look at this picture and tell me the fault.",
        "What fault does the screen show and how do I fix it?",
        "What happened to my device?",
        "Can you diagnose this screenshot?",
        "What does this picture show and what should I do?",
        "How do I solve this?",
        "What should I do?",
        "Help me fix this.",
        "What is this?",
    ),
}
SYMPTOM_FRAMES: dict[Language, tuple[str, ...]] = {
    "zh": (
        "我的手机{}，怎么办？",
        "{}，怎么办？",
        "{}，怎么解决？",
        "{}，这是什么问题？",
        "你好，{}，请帮忙看看。",
        "{}。",
        "{}了怎么办？",
        "我的设备{}，该怎么处理？",
    ),
    "en": ("Hello, {}. What should I do?", "Help, {}!", "{}, what is wrong?", "{}. How do I fix it?", "{}."),
}
ASK_CODE: dict[Language, tuple[str, ...]] = {
    "zh": (
        "错误代码是多少？",
        "屏幕上的错误码是什么？",
        "请读出错误代码。",
        "图中的四位错误代码是什么？",
        "报错代码是多少？",
        "代码是多少？",
    ),
    "en": (
        "What is the error code?",
        "Which error code is shown?",
        "Please read the error code.",
        "What code does the dialog show?",
        "Tell me the four digit error code.",
        "Read the code.",
    ),
}
ASK_BATTERY: dict[Language, tuple[str, ...]] = {
    "zh": (
        "电量还剩多少？",
        "电池百分比是多少？",
        "现在还有百分之几的电？",
        "请读出剩余电量。",
        "屏幕显示的电量是多少？",
    ),
    "en": (
        "What is the battery percentage?",
        "How much battery is left?",
        "Which battery level is shown?",
        "Please read the battery percentage.",
        "How many percent remain?",
    ),
}
ASK_HARDWARE: dict[Language, tuple[str, ...]] = {
    "zh": ("这是硬件问题还是软件问题？", "属于硬件故障吗？"),
    "en": ("Is it a hardware or a software problem?", "Is this a hardware fault?"),
}
ASK_REPAIR: dict[Language, tuple[str, ...]] = {
    "zh": ("需要送修吗？", "要不要寄回维修？"),
    "en": ("Does it need repair?", "Should I send it in for repair?"),
}
ASK_WHICH: dict[Language, tuple[str, ...]] = {
    "zh": (
        "哪张图显示{}，第一张还是第二张？",
        "第一张和第二张，哪一张是{}？",
        "两张图中哪张是{}？",
        "哪一张图片是{}？",
    ),
    "en": (
        "Which picture shows the {}, first or second?",
        "Which of the two pictures is the {}?",
        "Is the {} in the first or the second picture?",
        "Which picture shows {}?",
    ),
}
ASK_NTH: dict[Language, tuple[str, ...]] = {
    "zh": ("{}图是什么问题？", "请诊断{}图。", "{}图里是什么故障？"),
    "en": (
        "What is wrong in the {} picture?",
        "Please diagnose the {} picture.",
        "What does the {} picture show?",
    ),
}
ASK_WHEN: dict[Language, tuple[str, ...]] = {
    "zh": ("错误在第几秒出现？", "视频中故障是什么时候出现的？", "录屏里第几秒报错？", "问题从第几秒开始？"),
    "en": (
        "At which second does the error appear?",
        "When does the problem start in the video?",
        "At what time does the error show up?",
        "When does the fault appear?",
    ),
}
ASK_CLIP: dict[Language, tuple[str, ...]] = {
    "zh": ("视频里出现了什么故障？", "请看这段录屏，是什么问题？", "这段视频显示什么错误？"),
    "en": (
        "What fault does the video show?",
        "Please watch this clip. What is wrong?",
        "What error is in this recording?",
    ),
}
SHOW: dict[Language, tuple[str, ...]] = {
    "zh": ("你好，我先发一张截图。", "这是我的设备照片。", "请先看这张图。"),
    "en": (
        "Hello, here is my screenshot.",
        "This is a photo of my device.",
        "Please look at this picture first.",
    ),
}
RECEIVED: dict[Language, str] = {
    "zh": "收到图片，请问您想了解什么？",
    "en": "Got the picture. What would you like to know?",
}
SEND_PICTURE: dict[Language, str] = {
    "zh": "请发一张屏幕的照片或截图，我来帮您判断故障。",
    "en": "Please send a photo or screenshot of the screen, and I will find the fault.",
}
TEXT_ONLY: dict[Language, tuple[tuple[tuple[str, ...], str], ...]] = {
    "zh": (
        (
            ("怎么恢复出厂设置？", "如何恢复出厂设置？", "怎样重置手机？"),
            "请先备份数据，然后进入设置，选择系统，点击恢复出厂设置并确认。",
        ),
        (
            ("如何强制重启手机？", "怎么强制重启？", "死机了怎么重启手机？"),
            "同时按住电源键和音量减键十秒，直到出现开机画面。",
        ),
        (
            ("保修期是多久？", "保修多长时间？", "质保几年？"),
            "整机保修一年，电池和充电器保修半年，请保留购机发票。",
        ),
        (
            ("怎么备份照片？", "如何备份照片？", "照片怎样备份到云端？"),
            "打开设置里的云备份，选择照片，连接无线网络后点击立即备份。",
        ),
        (
            ("如何联系人工客服？", "转人工", "我要找人工客服。"),
            "请在应用内点击我的，选择在线客服，工作时间为早九点到晚九点。",
        ),
        (
            ("怎么申请退货？", "我要退货。", "如何退货？"),
            "签收七天内可在订单页面点击申请退货，按提示寄回商品。",
        ),
        (("你好", "您好！", "在吗？", "你好，请问你是谁？"), "您好，我是售后助手，请发送截图或描述问题。"),
        (("谢谢", "谢谢你！", "好的，谢谢。"), "不客气，如还有问题请随时联系我们。"),
    ),
    "en": (
        (
            (
                "How do I reset my phone?",
                "How can I do a factory reset?",
                "Reset my phone to factory settings.",
            ),
            "Back up your data first, then open Settings, choose System, tap Factory reset and confirm.",
        ),
        (
            (
                "How do I force a restart?",
                "How can I restart a frozen phone?",
                "How to force restart my phone?",
            ),
            "Hold the power key and volume down for ten seconds until the logo appears.",
        ),
        (
            (
                "How long is the warranty?",
                "What is the warranty period?",
                "Is my phone still under warranty?",
            ),
            "The device has one year of warranty, battery and charger have half a year. Keep the invoice.",
        ),
        (
            ("How can I back up my photos?", "How do I back up photos?", "Back up my pictures."),
            "Open cloud backup in Settings, select Photos, connect to wireless and tap Back up now.",
        ),
        (
            ("How do I contact a human agent?", "I want to talk to a person.", "Give me a human."),
            "Tap Me in the app and choose Online service. Working hours are nine to nine.",
        ),
        (
            ("How do I return the product?", "I want to return it.", "How can I send the product back?"),
            "Within seven days open the order page, tap Return and send the product back as shown.",
        ),
        (
            ("Hello", "Hi", "Good morning!", "Hello, who are you?"),
            "Hello, I am the after-sales assistant. Send a screenshot or describe the problem.",
        ),
        (
            ("Thank you", "Thanks!", "Thank you very much."),
            "You are welcome. Contact us any time if you need more help.",
        ),
    ),
}
SYSTEM_PROMPTS: tuple[str, ...] = (
    "You are a helpful assistant.",
    "你是售后客服助手。",
    "You are a helpful after-sales assistant.",
    "你是一名专业的手机和电脑售后客服，请根据图片判断故障并给出解决步骤。",
    "You are an after-sales support agent. Look at the picture, name the fault and give the steps.",
)
REFERENCE: dict[Language, str] = {"zh": "参考资料：", "en": "Reference: "}


def _pick(rng: Random, options: Sequence[str]) -> str:
    return options[rng.randrange(len(options))]


def detail(language: Language, code: str | None, percent: int | None) -> str:
    """The clause that names the number on the screen, or nothing."""
    if code is not None:
        return f"，错误代码 {code}" if language == "zh" else f", error code {code}"
    if percent is not None:
        return f"，剩余 {percent}%" if language == "zh" else f", {percent}% left"
    return ""


def diagnosis(language: Language, kind: str, code: str | None = None, percent: int | None = None) -> Answer:
    """Names the fault with its number, the likely causes and the steps."""
    fault = FAULTS[kind]
    name, number = fault.name[language], detail(language, code, percent)
    head = f"故障：{name}{number}。" if language == "zh" else f"Fault: {name}{number}. "
    keys = (name, code) if code else (name, f"{percent}%") if percent is not None else (name,)
    return Answer(head + fault.advice[language], keys)


def code_answer(language: Language, code: str | None) -> Answer:
    """The error code, or that there is none."""
    if code is None:
        return Answer("图中没有错误代码。" if language == "zh" else "There is no error code in the picture.")
    return Answer(f"错误代码是 {code}。" if language == "zh" else f"The error code is {code}.", (code,))


def battery_answer(language: Language, percent: int | None) -> Answer:
    """The battery level, or that none is shown."""
    if percent is None:
        return Answer("图中没有显示电量。" if language == "zh" else "The picture shows no battery level.")
    return Answer(
        f"剩余电量为 {percent}%。" if language == "zh" else f"The battery level is {percent}%.",
        (f"{percent}%",),
    )


def hardware_answer(language: Language, kind: str) -> Answer:
    """Whether the fault lies in hardware or software."""
    fault = FAULTS[kind]
    name = fault.name[language]
    if kind == "normal":
        return Answer(
            "画面正常，没有故障。" if language == "zh" else "It is a normal screen, there is no fault.",
            (name,),
        )
    if language == "zh":
        where = "硬件" if fault.hardware else "软件"
        return Answer(f"{name}一般是{where}问题。", (name, where))
    where = "hardware" if fault.hardware else "software"
    return Answer(f"{name[0].upper()}{name[1:]} is usually a {where} problem.", (name[1:], where))


def repair_answer(language: Language, kind: str) -> Answer:
    """Whether the device must be sent in."""
    fault = FAULTS[kind]
    name = fault.name[language]
    if language == "zh":
        verdict = "需要送修。" if fault.repair else "不需要送修，可以自己处理。"
        return Answer(f"{name}{verdict}", (name, verdict))
    return Answer(f"Yes, {name} needs repair." if fault.repair else f"No, {name} needs no repair.", (name,))


def which_answer(language: Language, index: int, kind: str) -> Answer:
    """Which of two pictures shows the fault; index 0 is the first."""
    name, ordinal = FAULTS[kind].name[language], ORDINALS[language][index]
    text = f"{ordinal}图显示{name}。" if language == "zh" else f"The {ordinal} picture shows the {name}."
    return Answer(text, (ordinal,))


def when_answer(language: Language, second: float | None, kind: str) -> Answer:
    """The time (s) printed before the first frame group that shows the fault, or that there is none."""
    if second is None:
        return Answer(
            "视频中没有出现故障。" if language == "zh" else "No error appears in the video.",
            ("没有" if language == "zh" else "No",),
        )
    name, time = FAULTS[kind].name[language], f"{second:.1f}"
    text = (
        f"故障在第 {time} 秒出现：{name}。"
        if language == "zh"
        else f"The error appears at {time} seconds: {name}."
    )
    return Answer(text, (time, name))


def symptom(rng: Random, language: Language, kind: str) -> str:
    """A complaint in the customer's words, as one would type it for this kind of fault."""
    words = _pick(rng, FAULTS[kind].symptoms[language])
    text = _pick(rng, SYMPTOM_FRAMES[language]).format(words)
    return text.replace("我的手机手机", "我的手机").replace("我的手机电脑", "我的电脑").replace("了了", "了")


def diagnosis_question(rng: Random, language: Language, kind: str) -> str:
    """A question for a picture of `kind`: mostly neutral, sometimes fitting, sometimes misleading words."""
    draw = rng.random()
    if draw < 0.5:
        return _pick(rng, DIAGNOSE[language])
    return symptom(rng, language, kind if draw < 0.75 else _pick(rng, KINDS))


def system_prompt(rng: Random) -> str | None:
    """None, a short role, or a role with a passage of reference text that may not fit the picture."""
    draw = rng.random()
    if draw < 0.6:
        return None
    role = _pick(rng, SYSTEM_PROMPTS)
    if draw < 0.85:
        return role
    language: Language = LANGUAGES[rng.randrange(2)]
    return f"{role}\n{REFERENCE[language]}{FAULTS[_pick(rng, KINDS)].advice[language]}"


def corpus() -> list[str]:
    """Every sentence the demo can say or is asked, for the tokenizer's training."""
    texts: list[str] = [*SYSTEM_PROMPTS, *REFERENCE.values(), *RECEIVED.values(), *SEND_PICTURE.values()]
    for language in LANGUAGES:
        for group in (DIAGNOSE, ASK_CODE, ASK_BATTERY, ASK_HARDWARE, ASK_REPAIR, ASK_WHEN, ASK_CLIP, SHOW):
            texts += group[language]
        for questions, answer in TEXT_ONLY[language]:
            texts += [*questions, answer]
        for frame in ASK_NTH[language]:
            texts += [frame.format(ordinal) for ordinal in ORDINALS[language]]
        for kind, fault in FAULTS.items():
            texts += [frame.format(fault.name[language]) for frame in ASK_WHICH[language]]
            texts += [
                frame.format(words)
                for frame in SYMPTOM_FRAMES[language]
                for words in fault.symptoms[language]
            ]
            answers = [
                diagnosis(language, kind),
                hardware_answer(language, kind),
                repair_answer(language, kind),
                which_answer(language, 0, kind),
                which_answer(language, 1, kind),
                when_answer(language, 1.4, kind),
            ]
            texts += [answer.text for answer in answers]
        texts += [
            diagnosis(language, "crash", code="4071").text,
            diagnosis(language, "battery", percent=7).text,
            code_answer(language, "4071").text,
            code_answer(language, None).text,
            battery_answer(language, 7).text,
            battery_answer(language, None).text,
            when_answer(language, None, "normal").text,
        ]
    return texts
