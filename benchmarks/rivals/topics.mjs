/** A topic and those above it, the deepest first: 'news.uk' gives 'news.uk' and 'news'. */
export function contexts(topic) {
  const found = [topic]
  for (let end = topic.lastIndexOf('.'); end > 0; end = topic.lastIndexOf('.', end - 1)) {
    found.push(topic.slice(0, end))
  }
  return found
}
