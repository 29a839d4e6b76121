// Every word that the page shows, in Chinese and English, and which of the two is on. Knows nothing of what is shown where:
// elements name their text in data-text, their accessible name in data-label, their placeholder in data-hint.

export const STRINGS = {
  "app.title": ["智能客服", "Customer service"],
  "app.agent": ["客服工作台", "Agent desk"],
  "app.skip": ["跳到输入框", "Skip to the question"],
  "app.skip.list": ["跳到工单", "Skip to the hand-off"],
  "app.theme": ["切换深色或浅色", "Switch light or dark"],
  "app.language": ["EN · Switch to English", "中 · 切换到中文"],
  "app.language.short": ["EN", "中"],
  "app.panes": ["页面", "Panes"],
  "pane.media": ["图片", "Pictures"],
  "pane.chat": ["对话", "Conversation"],
  "pane.settings": ["参数", "Settings"],

  "media.add": ["选择图片或视频", "Choose pictures or a video"],
  "media.drop": ["点击选择，或拖放、粘贴到此处", "Click, drag or paste here"],
  "media.dropping": ["松开即可添加", "Drop to add"],
  "media.camera": ["拍照", "Camera"],
  "media.limits": [
    "最多 {files} 个文件；图片不超过 {image}，视频不超过 {video} 且 {seconds} 秒以内。",
    "At most {files} files; pictures up to {image}, videos up to {video} and {seconds} s.",
  ],
  "media.private": [
    "证件号、银行卡号、电话和邮箱会在处理前自动打码。",
    "ID, bank card and phone numbers and e-mail addresses are masked before anything is processed.",
  ],
  "media.remove": ["移除 {name}", "Remove {name}"],
  "media.open": ["放大 {name}", "Enlarge {name}"],
  "media.added": ["已添加 {name}", "{name} added"],
  "media.removed": ["已移除 {name}", "{name} removed"],
  "media.kind": [
    "{name}：不支持这种文件，请选择图片（JPEG、PNG、WebP）或视频（MP4）。",
    "{name}: not a picture or video. Choose JPEG, PNG, WebP or MP4.",
  ],
  "media.large": ["{name}：{size}，超过 {limit} 的限制，请压缩后再试。", "{name}: {size} is over the limit of {limit}. Make it smaller and try again."],
  "media.many": ["最多 {files} 个文件，其余未添加。", "At most {files} files; the rest was not added."],
  "media.unreadable": ["{name}：无法读取。", "{name}: cannot be read."],
  "media.total": ["全部图片共 {size}，超过单次 {limit} 的限制；请移除几张或开始新对话。", "Together the pictures have {size}, over the limit of {limit}. Remove some, or start a new conversation."],
  "camera.take": ["拍摄", "Take picture"],
  "camera.none": ["无法打开摄像头，请检查权限，或改为选择文件。", "The camera cannot be opened. Check the permission, or choose a file."],
  "dialog.close": ["关闭", "Close"],

  "chat.log": ["对话记录", "Conversation"],
  "chat.welcome": ["您好，我能看懂图片。", "Hello, I can see pictures."],
  "chat.welcome.text": ["发一张故障照片，说说遇到了什么问题。", "Send a picture of the problem and say what happened."],
  "chat.question": ["请描述您的问题", "Describe your problem"],
  "chat.question.hint": ["请描述您的问题…", "Describe your problem…"],
  "chat.keys": ["Enter 发送，Shift+Enter 换行，Esc 停止", "Enter sends, Shift+Enter makes a new line, Esc stops"],
  "chat.send": ["发送", "Send"],
  "chat.stop": ["停止", "Stop"],
  "chat.new": ["新对话", "New conversation"],
  "chat.you": ["您", "You"],
  "chat.customer": ["客户", "Customer"],
  "chat.assistant": ["助手", "Assistant"],
  "chat.thinking": ["正在看图和查资料…", "Looking and reading…"],
  "chat.stopped": ["已停止。", "Stopped."],
  "chat.length": ["回答达到长度上限，可调大“最大长度”后重新生成。", "The answer reached its length limit. Raise “Maximum length” and regenerate."],
  "chat.filtered": ["部分内容已按规定隐藏。", "Part of the answer was withheld by policy."],
  "chat.done": ["回答完毕。", "Answer complete."],
  "chat.empty": ["助手没有给出文字，请换个说法或重新生成。", "The assistant gave no text. Rephrase, or regenerate."],
  "chat.copy": ["复制", "Copy"],
  "chat.copied": ["已复制", "Copied"],
  "chat.copy.failed": ["复制失败", "Could not copy"],
  "chat.regenerate": ["重新生成", "Regenerate"],
  "chat.person": ["转人工", "Talk to a person"],
  "chat.masked": ["已为隐私信息打码", "Private data masked"],
  "chat.cached": ["常见问题", "Known question"],
  "code.copy": ["复制代码", "Copy code"],

  "confidence.label": ["把握", "Confidence"],
  "confidence.high": ["较高", "high"],
  "confidence.medium": ["一般", "medium"],
  "confidence.low": ["较低", "low"],
  "sources.title": ["参考资料", "Sources"],
  "sources.open": ["打开资料 {number}：{title}", "Open source {number}: {title}"],
  "sources.support": ["支持度 {percent}%", "backs {percent}% of the answer"],
  "sources.loading": ["正在打开…", "Opening…"],
  "sources.missing": ["无法取得原文。{why}", "The article cannot be shown. {why}"],

  "rating.title": ["这个回答有帮助吗？", "Was this helpful?"],
  "rating.star": ["{n} 分", "{n} of 5"],
  "rating.comment": ["补充说明（可不填）", "Comment (optional)"],
  "rating.send": ["提交评价", "Send rating"],
  "rating.thanks": ["感谢评价：{n} 分", "Thank you: {n} of 5"],

  "handoff.title": ["已为您转接人工客服", "A person is taking over"],
  "handoff.waiting": ["客服会在此回复，请不要关闭页面。", "They will answer here; please keep this page open."],
  "handoff.claimed": ["{agent} 正在处理。", "{agent} is looking at it."],
  "handoff.closed": ["人工服务已结束。", "This case is closed."],
  "handoff.reconnecting": ["连接中断，正在重连…", "Connection lost, connecting again…"],
  "handoff.agent": ["人工客服 {agent}", "Agent {agent}"],
  "reason.low_confidence": ["助手把握不足。", "The assistant was not sure enough."],
  "reason.blocked_words": ["内容需要人工确认。", "A person has to check the content."],
  "reason.asked_for_person": ["您要求人工服务。", "You asked for a person."],
  "reason.no_knowledge": ["资料库里没有相关内容。", "There is nothing about this in the articles."],
  "reason.attended": ["客服人员正在处理。", "A colleague is looking after you."],
  "reason.model_unavailable": ["助手暂时无法回答。", "The assistant cannot answer at the moment."],

  "settings.scene": ["场景", "Scene"],
  "settings.samples": ["常用问题", "Sample questions"],
  "settings.preset": ["参数方案", "Presets"],
  "settings.preset.scene": ["场景默认", "Scene default"],
  "settings.preset.tutorial": ["教程", "Tutorial"],
  "settings.preset.qwen": ["Qwen", "Qwen"],
  "settings.temperature": ["随机性", "Temperature"],
  "settings.top_p": ["核采样", "Top p"],
  "settings.top_k": ["候选数", "Top k"],
  "settings.max_tokens": ["最大长度", "Maximum length"],
  "settings.presence_penalty": ["话题惩罚", "Presence penalty"],
  "settings.key": ["API 密钥", "API key"],
  "settings.key.help": ["只保存在本标签页，关闭即清除。", "Kept in this tab only, gone when it closes."],
  "settings.range": ["允许 {min} 到 {max}", "{min} to {max} allowed"],

  "error.title": ["没有成功", "That did not work"],
  "error.retry": ["重试", "Try again"],
  "error.retry.after": ["约 {seconds} 秒后可重试。", "Try again in about {seconds} s."],
  "error.network": ["连接不上服务器，请检查网络后重试。", "The server cannot be reached. Check the connection and try again."],
  "error.cut": ["回答中途断开，已收到的部分保留在上面。", "The connection broke in the middle; what had arrived is kept above."],
  "error.401": ["密钥缺失或无效，请在“参数”里填写 API 密钥。", "The API key is missing or wrong. Enter it under Settings."],
  "error.403": ["这个密钥没有此权限。", "This key may not do that."],
  "error.404": ["没有找到，可能已被删除。", "Not found; it may have been deleted."],
  "error.409": ["已被处理，请刷新查看。", "Somebody did it already; refresh to see."],
  "error.413": ["内容过大，请减少或压缩图片。", "Too large. Send fewer or smaller pictures."],
  "error.429": ["请求过于频繁，请稍候。", "Too many requests; please wait."],
  "error.503": ["服务繁忙或正在启动。", "The service is busy or starting."],
  "error.400": ["请求有误，请按下面的说明修改。", "Something in the request is not right; see below."],
  "error.500": ["服务器出错，请重试；若持续出现，请告知请求编号。", "The server failed. Try again; if it goes on, report the request id."],
  "error.request": ["请求编号 {id}", "Request {id}"],

  "agent.list": ["待处理", "Hand-offs"],
  "agent.open": ["待接入", "open"],
  "agent.claimed": ["处理中", "claimed"],
  "agent.closed": ["已结束", "closed"],
  "agent.none": ["暂无待处理的转接。", "Nothing is waiting."],
  "agent.choose": ["请选择左侧的一条转接。", "Choose a hand-off on the left."],
  "agent.name": ["我的名字", "My name"],
  "agent.key": ["客服密钥", "Agent key"],
  "agent.summary": ["摘要", "Summary"],
  "agent.conversation": ["对话记录", "Conversation"],
  "agent.claim": ["接入", "Claim"],
  "agent.reply": ["发送回复", "Send reply"],
  "agent.reply.label": ["回复客户", "Reply to the customer"],
  "agent.close": ["结束", "Close"],
  "agent.by": ["由 {agent} 处理", "with {agent}"],
  "agent.why.low_confidence": ["把握不足", "Low confidence"],
  "agent.why.blocked_words": ["敏感内容", "Blocked words"],
  "agent.why.asked_for_person": ["客户要求", "Asked for a person"],
  "agent.why.no_knowledge": ["资料库无答案", "No article"],
  "agent.why.attended": ["处理中", "Attended"],
  "agent.why.model_unavailable": ["模型不可用", "Model unavailable"],
  "agent.state": ["状态", "State"],
  "agent.updated": ["更新于 {time}", "Updated {time}"],
};

const listeners = new Set();
let current = remembered() ?? (/^zh\b/i.test(navigator.language) ? "zh" : "en");

function remembered() {
  try {
    const value = localStorage.getItem("language");
    return value === "zh" || value === "en" ? value : null;
  } catch {
    return null; // storage may be switched off
  }
}

export const language = () => current;

/** The text `key` in the language that is on, with {name} replaced by values.name. */
export function t(key, values = {}) {
  const pair = STRINGS[key];
  if (!pair) throw new Error(`i18n: no text named ${key}`);
  return pair[current === "zh" ? 0 : 1].replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

export const has = (key) => key in STRINGS;

/** A text that the server sends in both languages, or as one string. */
export function localized(value) {
  if (value == null) return "";
  return typeof value === "string" ? value : (value[current] ?? value.zh ?? value.en ?? "");
}

/** Call `listener` now-on whenever the language changes. */
export const onLanguage = (listener) => listeners.add(listener);

export function setLanguage(value) {
  current = value;
  try {
    localStorage.setItem("language", value);
  } catch {
    // not remembered, that is all
  }
  translate(document.documentElement);
  for (const listener of listeners) listener(value);
}

/** Put the texts of the language that is on into `root` and all below it. */
export function translate(root) {
  document.documentElement.lang = current === "zh" ? "zh-CN" : "en";
  for (const element of [root, ...root.querySelectorAll("[data-text],[data-label],[data-hint]")]) {
    const { text, label, hint, values } = element.dataset;
    const filled = values ? JSON.parse(values) : {};
    if (text) element.textContent = t(text, filled);
    if (label) {
      element.setAttribute("aria-label", t(label, filled));
      if (element.tagName === "BUTTON") element.title = t(label, filled);
    }
    if (hint) element.placeholder = t(hint, filled);
  }
}

/** A number of bytes in words. */
export const bytesText = (bytes) => (bytes < 1048576 ? `${Math.max(1, Math.round(bytes / 1024))} KB` : `${(bytes / 1048576).toFixed(bytes < 10485760 ? 1 : 0).replace(/\.0$/, "")} MB`);

export const clock = (seconds) =>
  new Date(seconds * 1000).toLocaleString(current === "zh" ? "zh-CN" : "en-GB", {
    month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit",
  });
