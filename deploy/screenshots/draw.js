// Draws the dashboard as it looks on a Prometheus, in headless Chromium:
//
//   CHROMIUM=/usr/bin/chromium node draw.js http://127.0.0.1:9090 FROM TO INTERVAL
//
// FROM and TO are Unix times in milliseconds, INTERVAL is that of the scrapes, such
// as 5s. It writes docs/dashboard.png, the first row, and docs/dashboard-all.png.
import { fileURLToPath } from 'node:url';

import { build } from 'esbuild';
import { chromium } from 'playwright-core';
import sharp from 'sharp';

const here = new URL('.', import.meta.url), root = new URL('../../', here);
const width = 1600;
const [prometheus, from, to, interval] = process.argv.slice(2);
if (!/^\d+s$/.test(interval ?? '')) {
  throw new Error('usage: node draw.js PROMETHEUS FROM TO INTERVAL');
}

const bundle = await build({
  entryPoints: [fileURLToPath(new URL('page.jsx', here))], outdir: '/', bundle: true, write: false, minify: true, logLevel: 'error',
  format: 'iife', target: 'es2022', loader: { '.ttf': 'empty' }, define: { 'process.env.NODE_ENV': '"production"', global: 'globalThis' },
});
const built = Object.fromEntries(bundle.outputFiles.map((f) => [f.path.slice(f.path.lastIndexOf('/')), f.text]));

// The fonts and icons of @grafana/ui, where it looks for them.
const page = `<!doctype html><title>linkcancel</title><link rel="stylesheet" href="/page.css">
<style>${[['Regular', 400], ['Medium', 500]].map(([name, weight]) => `@font-face{font-family:Inter;font-weight:${weight};src:url(/public/fonts/inter/Inter-${name}.woff2)}`).join('')}</style>
<div id="page"></div><script src="/page.js"></script>`;
const files = {
  '/dashboard.json': new URL('deploy/grafana/dashboards/linkcancel.json', root),
  '/public/fonts/inter/Inter-Regular.woff2': new URL('node_modules/@fontsource/inter/files/inter-latin-400-normal.woff2', here),
  '/public/fonts/inter/Inter-Medium.woff2': new URL('node_modules/@fontsource/inter/files/inter-latin-500-normal.woff2', here),
};
const icons = '/public/build/img/icons/';

// answer is what the page gets: nothing leaves this machine.
async function answer(url) {
  if (url.pathname === '/') {
    return { contentType: 'text/html', body: page };
  }
  if (built[url.pathname] !== undefined) {
    return { contentType: url.pathname.endsWith('.css') ? 'text/css' : 'text/javascript', body: built[url.pathname] };
  }
  if (url.pathname.startsWith('/api/v1/')) {
    return { contentType: 'application/json', body: await (await fetch(prometheus + url.pathname + url.search)).text() };
  }
  const file = url.pathname.startsWith(icons)
    ? new URL(url.pathname.slice(icons.length), new URL('node_modules/@grafana/ui/dist/public/img/icons/', here)) : files[url.pathname];
  return file ? { path: fileURLToPath(file) } : { status: 404 };
}

// The profile is a new, empty folder, which goes with the browser.
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});
try {
  const tab = await browser.newPage({ viewport: { width, height: 900 }, locale: 'en-US', timezoneId: 'UTC' });
  const faults = [];
  tab.on('pageerror', (error) => faults.push(error.stack));
  await tab.route('**', async (route) => {
    const reply = await answer(new URL(route.request().url()));
    if (reply.status === 404) {
      faults.push(`the page asked for ${route.request().url()}`);
    }
    await route.fulfill(reply);
  });
  await tab.clock.setFixedTime(Number(to));
  await tab.goto('http://localhost/');
  const empty = await tab.evaluate((args) => window.draw(args), { from: Number(from), to: Number(to), interval: parseInt(interval, 10) * 1000 });
  await tab.waitForFunction(() => !document.querySelector('svg:empty')); // all icons have come
  if (faults.length > 0) {
    throw new Error(faults.join('\n'));
  }
  console.log(`without data: ${empty.join(', ') || 'none'}`);

  const height = await tab.evaluate(() => document.documentElement.scrollHeight);
  const second = await tab.evaluate(() => document.querySelectorAll('[data-row]')[1].getBoundingClientRect().top);
  for (const [name, tall] of [['dashboard', second], ['dashboard-all', height]]) {
    const file = `docs/${name}.png`;
    const picture = await tab.screenshot({ fullPage: true, clip: { x: 0, y: 0, width, height: tall } });
    const { size } = await sharp(picture).png({ palette: true, effort: 10 }).toFile(fileURLToPath(new URL(file, root))); // a third of the bytes
    console.log(`${file}: ${Math.round(size / 1024)} kB`);
  }
} finally {
  await browser.close();
}
