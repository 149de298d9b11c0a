//! The launches of body and head for each class, recorded once at load.

use std::ops::Range;
use std::sync::Arc;

use indexmap::IndexMap;
use swiftlm_device::{Device, KernelId, Launch, RecordingId, Slice, Stage};
use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::plan::{Fetch, FuncPlan, Program};
use swiftlm_ir::template::Template;

use super::turns::{FetchSite, Guess};
use super::{Executable, LoadError, bindings::Bindings};
use crate::experts::StreamedCall;

/// Where a launch comes from, for people.
#[derive(Clone, Debug)]
pub(super) struct Label {
    pub(super) loc: String,
    pub(super) template: &'static str,
    /// The call of the program, and which of its launches.
    pub(super) place: (usize, usize),
}

/// The host's part of a body.
#[derive(Clone, Copy, Debug)]
pub(super) enum Host {
    /// Experts are fetched, and the launches repeated for those that came.
    Fetch(FetchSite),
    /// This layer of those that take turns is brought first.
    Bring(usize),
}

/// Launches that are submitted together.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) recording: RecordingId,
    /// What the host does before it submits them, or instead of that.
    pub(super) host: Option<Host>,
    labels: Vec<Label>,
}

/// The calls before the head, for one class of tokens: one part, or several where the host takes part.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) class: ShapeClass,
    pub(super) parts: Vec<Part>,
}

/// The last call, for one class of rows that want logits.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) class: ShapeClass,
    pub(super) recording: RecordingId,
    /// `f32[R, V]`.
    pub(super) logits: Slice,
    /// `u32[R]`.
    pub(super) greedy: Slice,
    labels: Vec<Label>,
}

/// Loads kernels and makes launches of plans; kernels and templates are shared by all calls that use them.
pub(super) struct Recorder<'a> {
    pub(super) device: &'a mut dyn Device,
    pub(super) program: &'a Program,
    pub(super) bindings: &'a Bindings,
    /// Calls that need their weights brought.
    pub(super) streamed: &'a [StreamedCall],
    pub(super) kernels: IndexMap<usize, KernelId>,
}

impl Recorder<'_> {
    /// The body of these calls for tokens of `class`.
    pub(super) fn body(&mut self, calls: Range<usize>, class: ShapeClass) -> Result<Body, LoadError> {
        let (mut parts, mut launches, mut layer) = (vec![], vec![], 0);
        let mut templates = IndexMap::new();
        for call in calls.clone() {
            let mut own = vec![];
            self.call(call, class, &mut templates, &mut own)?;
            if let Some(layer) = self.streamed.iter().position(|streamed| streamed.call == call) {
                parts.push(self.part(std::mem::take(&mut launches), None)?);
                parts.push(self.part(own, Some(Host::Bring(layer)))?);
                continue;
            }
            let fetches = &plan(self.program, call, class)?.fetches;
            let mut own = own.into_iter();
            let mut done = 0;
            for fetch in fetches {
                let first = fetch.ahead.as_ref().map_or(fetch.launches.start, |ahead| ahead.launches.start);
                launches.extend(own.by_ref().take(first - done));
                parts.push(self.part(std::mem::take(&mut launches), None)?);
                done = fetch.launches.end;
                let guess = own.by_ref().take(fetch.launches.start - first).map(|(launch, _)| launch).collect();
                let guess = self.guess(call, &calls, fetch, guess)?;
                let ids = self.bindings.resolve(self.program, call, &fetch.ids)?;
                let site = FetchSite { layer, ids, top_k: fetch.top_k, experts: fetch.experts, guess };
                let turns = own.by_ref().take(fetch.launches.len()).collect();
                parts.push(self.part(turns, Some(Host::Fetch(site)))?);
                layer += 1;
            }
            launches.extend(own);
        }
        parts.push(self.part(launches, None)?);
        Ok(Body { class, parts })
    }

    /// What guesses the experts of the next of these calls that fetches, if there is one.
    fn guess(
        &mut self,
        call: usize,
        calls: &Range<usize>,
        fetch: &Fetch,
        launches: Vec<Launch>,
    ) -> Result<Option<Guess>, LoadError> {
        let next = self.program.module.next_fetch(call).filter(|next| calls.contains(next));
        let Some(ahead) = fetch.ahead.as_ref().filter(|_| next.is_some()) else { return Ok(None) };
        let ids = self.bindings.resolve(self.program, call, &ahead.ids)?;
        Ok(Some(Guess { recording: self.device.record(launches)?, ids }))
    }

    fn part(&mut self, launches: Vec<(Launch, Label)>, host: Option<Host>) -> Result<Part, LoadError> {
        let (launches, labels) = launches.into_iter().unzip();
        Ok(Part { recording: self.device.record(launches)?, host, labels })
    }

    /// The head for rows of `class`.
    pub(super) fn head(&mut self, class: ShapeClass) -> Result<Head, LoadError> {
        let program = self.program;
        let call = program.module.main.len() - 1;
        let mut launches = vec![];
        self.call(call, class, &mut IndexMap::new(), &mut launches)?;
        let plan = plan(program, call, class)?;
        let [logits, greedy] = plan.results.as_slice() else {
            let count = plan.results.len();
            return Err(LoadError::Program(format!(
                "the last function has {count} results: expected logits and greedy choice"
            )));
        };
        let (logits, greedy) =
            (self.bindings.resolve(program, call, logits)?, self.bindings.resolve(program, call, greedy)?);
        let (launches, labels) = launches.into_iter().unzip();
        Ok(Head { class, recording: self.device.record(launches)?, logits, greedy, labels })
    }

    fn call(
        &mut self,
        call: usize,
        class: ShapeClass,
        templates: &mut IndexMap<(usize, usize), Arc<Template>>,
        launches: &mut Vec<(Launch, Label)>,
    ) -> Result<(), LoadError> {
        let program = self.program;
        let (func, scope) = (program.module.main[call].func, &program.module.main[call].scope);
        for (at, dispatch) in plan(program, call, class)?.dispatches.iter().enumerate() {
            let mut stages = vec![];
            for stage in &dispatch.stages {
                let kernel = self.kernel(stage.kernel)?;
                stages.push(Stage { kernel, args: stage.args.clone(), grid: stage.grid });
            }
            let args =
                dispatch.args.iter().map(|a| self.bindings.resolve(program, call, a)).collect::<Result<_, _>>()?;
            let template = templates.entry((func, at)).or_insert_with(|| Arc::new(dispatch.template.clone()));
            let loc = [scope.as_str(), dispatch.loc.as_str()].into_iter().filter(|s| !s.is_empty());
            let loc = loc.collect::<Vec<_>>().join(".");
            let label = Label { loc: loc.clone(), template: template.name(), place: (call, at) };
            launches.push((Launch { template: Arc::clone(template), args, stages, loc }, label));
        }
        Ok(())
    }

    fn kernel(&mut self, index: usize) -> Result<KernelId, LoadError> {
        if let Some(id) = self.kernels.get(&index) {
            return Ok(*id);
        }
        let missing = || LoadError::Program(format!("kernel {index}: there are {}", self.program.kernels.len()));
        let id = self.device.load(self.program.kernels.get(index).ok_or_else(missing)?)?;
        self.kernels.insert(index, id);
        Ok(id)
    }
}

/// The schedule of a call for a class.
pub(super) fn plan(program: &Program, call: usize, class: ShapeClass) -> Result<&FuncPlan, LoadError> {
    let func = program.module.main[call].func;
    let found = program.plans.get(func).and_then(|plans| plans.iter().find(|p| p.class == class));
    found.ok_or_else(|| LoadError::Program(format!("function {func} has no plan for class {}", class.name())))
}

impl Executable {
    /// Labels of a recording's launches.
    pub(super) fn labels(&self, recording: RecordingId) -> &[Label] {
        let mut parts = self.bodies.iter().flat_map(|body| &body.parts);
        let body = parts.find(|part| part.recording == recording).map(|part| &part.labels);
        let head = || self.heads.iter().find(|h| h.recording == recording).map(|h| &h.labels);
        body.or_else(head).map_or(&[], Vec::as_slice)
    }
}
